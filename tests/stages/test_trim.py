"""The trimmed tokenizer against the whole one: the same pieces under other ids, and what is said where they differ."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from tokenizers import Tokenizer, processors
from transformers import AutoTokenizer

from edgekit import data
from edgekit.artifact import LabelledData, Teacher, Vocabulary
from edgekit.errors import DataError, RecipeError
from edgekit.search.limits import SMALLER
from edgekit.stages._word_rows import Candidates, covering
from edgekit.stages.teach import load_teacher
from edgekit.stages.trim import Trim, unknown_rate
from edgekit.target import load_target
from edgekit.tokenization import encode, load_tokenizer

CUT = Trim(enabled=True, min_tokens=0, coverage=0, share=False)


def processor(tokenizer: Any, kind: str) -> Any:
    """Makes a post-processor that adds [CLS] and [SEP], in one of the three forms."""
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    template = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return {
        "bert": processors.BertProcessing(ends[1], ends[0]),
        "template": template,
        "sequence": processors.Sequence([processors.ByteLevel(trim_offsets=False), template]),
    }[kind]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> LabelledData:
    folder = tmp_path_factory.mktemp("rows")
    made: LabelledData = tiny.labelled(folder, tiny.write_data(folder / "raw", rows=40, dev=20, test=4))
    return made


def teacher(folder: Path, model_type: str = "bert", tokenizer: Any = None, **changes: Any) -> Teacher:
    """Writes what this stage reads of a teacher: configuration and tokenizer."""
    tokenizer = tokenizer or tiny.tokenizer_of(model_type)
    tiny.config_of(model_type, tokenizer.get_vocab_size(), **changes).save_pretrained(folder)
    tiny.write_tokenizer(folder, tokenizer)
    return Teacher(folder, "")


def trim(folder: Path, rows: LabelledData, given: Teacher | None = None, stage: Trim = CUT) -> Vocabulary:
    """Runs the stage."""
    made: Vocabulary = tiny.run_stage(stage, [given or teacher(folder / "teacher"), rows], folder / "run")
    return made


def loaded(folder: Path) -> Any:
    """Reads a tokenizer.json."""
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.mark.parametrize("kind", ["bert", "template", "sequence"])
def test_training_texts_are_cut_into_the_same_pieces_under_new_ids(
    tmp_path: Path, rows: LabelledData, kind: str
) -> None:
    tokenizer = tiny.wordpiece()
    tokenizer.post_processor = processor(tokenizer, kind)
    given = teacher(tmp_path / "teacher", tokenizer=tokenizer)
    vocabulary = trim(tmp_path, rows, given)
    before, after, ids = loaded(given.path), loaded(vocabulary.tokenizer), vocabulary.teacher_ids
    assert len(ids) < before.get_vocab_size()
    for text, _ in data.read(rows.path).train:
        old, new = before.encode(text), after.encode(text)
        assert new.tokens == old.tokens
        assert [ids[i] for i in new.ids] == old.ids
        assert new.tokens[0] == "[CLS]"
        assert new.tokens[-1] == "[SEP]"


def test_teacher_ids_name_the_same_token_and_keep_its_order(tmp_path: Path, rows: LabelledData) -> None:
    given = teacher(tmp_path / "teacher")
    vocabulary = trim(tmp_path, rows, given)
    before, after, ids = loaded(given.path), loaded(vocabulary.tokenizer), vocabulary.teacher_ids
    assert len(ids) == after.get_vocab_size() == vocabulary.facts["tokens_after"]
    assert vocabulary.facts["tokens_before"] == before.get_vocab_size()
    assert ids == sorted(set(ids))
    assert [before.id_to_token(old) for old in ids] == [after.id_to_token(new) for new in range(len(ids))]


def test_special_tokens_and_padding_are_renumbered(tmp_path: Path, rows: LabelledData) -> None:
    # Special tokens behind the words, as in BERT's own vocabulary, so that every one of their ids changes.
    whole = json.loads(tiny.wordpiece().to_str())
    words = sorted(whole["model"]["vocab"], key=lambda token: (token.startswith("["), token))
    whole["model"]["vocab"] = new = {token: i for i, token in enumerate(words)}
    for token in whole["added_tokens"]:
        token["id"] = new[token["content"]]
    whole["added_tokens"].sort(key=lambda token: token["id"])
    for entry in whole["post_processor"]["special_tokens"].values():
        entry["ids"] = [new[token] for token in entry["tokens"]]
    tokenizer = Tokenizer.from_str(json.dumps(whole))
    tokenizer.enable_padding(pad_id=new["[PAD]"], pad_token="[PAD]")
    tokenizer.enable_truncation(7)
    given = teacher(tmp_path / "teacher", tokenizer=tokenizer, pad_token_id=new["[PAD]"])
    vocabulary = trim(tmp_path, rows, given)
    after = loaded(vocabulary.tokenizer)
    for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"):
        index = after.token_to_id(token)
        assert vocabulary.teacher_ids[index] == new[token] != index
        assert after.encode(token, add_special_tokens=False).ids == [index]
    assert vocabulary.facts["pad_token_id"] == after.token_to_id("[PAD]")
    text = data.read(rows.path).train[0][0]
    assert after.encode(text).ids[0] == after.token_to_id("[CLS]")
    assert [vocabulary.teacher_ids[i] for i in after.encode(text).ids] == loaded_whole(given.path).encode(text).ids


def loaded_whole(folder: Path) -> Any:
    """Reads a tokenizer.json, its truncation and padding off."""
    tokenizer = loaded(folder)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def test_autotokenizer_loads_the_result_and_agrees_with_tokenizers(tmp_path: Path, rows: LabelledData) -> None:
    vocabulary = trim(tmp_path, rows)
    theirs = AutoTokenizer.from_pretrained(vocabulary.tokenizer, local_files_only=True)
    ours = load_tokenizer(vocabulary.tokenizer, vocabulary.max_length)
    texts = [*(text for text, _ in data.read(rows.path).dev), "Zürich ☃ zebra", "", " ".join(["rain"] * 100)]
    batch = theirs(texts, truncation=True)["input_ids"]
    assert batch == [row.tolist() for row in encode(ours, texts)]
    assert max(map(len, batch)) == vocabulary.max_length == theirs.model_max_length
    assert theirs.pad_token_id == vocabulary.facts["pad_token_id"]
    padded = theirs(["rain", "rain rain"], padding=True)
    assert padded["input_ids"][0][-1] == theirs.pad_token_id
    assert set(padded) == {"input_ids", "attention_mask"}


def test_an_unseen_word_falls_back_to_pieces_and_a_foreign_character_to_unknown(
    tmp_path: Path, rows: LabelledData
) -> None:
    after = loaded(trim(tmp_path, rows).tokenizer)
    assert after.token_to_id("zebra") is None
    assert after.encode("zebra", add_special_tokens=False).tokens == ["z", "##e", "##b", "##r", "##a"]
    assert after.encode("東京 rain", add_special_tokens=False).tokens[-1] == "rain"
    assert "[UNK]" in after.encode("東京 rain", add_special_tokens=False).tokens


def test_unknown_and_resegmented_rates_are_those_of_dev(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    pairs = {
        "train": [("rain now", "weather"), ("play song", "music"), ("lamp soon", "lights"), ("wake me", "alarm")],
        "dev": [("rain now", "weather"), ("zebra", "music"), ("☃ rain", "weather"), ("play ☃ now", "music")],
        "test": [("rain", "weather")],
    }
    for split, rows_of in pairs.items():
        lines = (json.dumps({"text": text, "label": label}) for text, label in rows_of)
        (raw / f"{split}.jsonl").write_text("\n".join(lines))
    facts = trim(tmp_path, tiny.labelled(tmp_path / "data", raw)).facts
    assert facts["unknown_rate_dev_before"] == pytest.approx(2 / 8)  # of rain now | zebra | ☃ rain | play ☃ now
    assert facts["unknown_rate_dev_after"] == pytest.approx(2 / 12)  # zebra is five pieces now
    assert facts["resegmented_rate_dev"] == pytest.approx(1 / 4)


def test_an_unknown_rate_without_tokens_or_without_an_unknown_token_is_zero() -> None:
    assert unknown_rate(tiny.wordpiece(), [], 1) == 0.0
    assert unknown_rate(tiny.wordpiece(), ["", "  "], 1) == 0.0
    assert unknown_rate(tiny.wordpiece(), ["☃"], None) == 0.0
    assert unknown_rate(tiny.wordpiece(), ["☃"], 1) == 1.0


def test_min_count_keeps_what_is_used_that_often(tmp_path: Path, rows: LabelledData) -> None:
    given = teacher(tmp_path / "teacher")
    uses: dict[str, int] = {}
    for text, _ in data.read(rows.path).train:
        for token in loaded(given.path).encode(text).tokens:
            uses[token] = uses.get(token, 0) + 1
    for min_count in (1, 4, 1000):
        after = loaded(trim(tmp_path / str(min_count), rows, given, Trim(True, min_count, 0, 0, False)).tokenizer)
        words = {token for token in after.get_vocab() if len(token.removeprefix("##")) > 1}
        expected = {token for token, count in uses.items() if count >= min_count and len(token) > 1}
        assert words == expected | {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
        assert set("abcxyz") <= set(after.get_vocab())


def test_a_small_vocabulary_is_filled_up_from_the_front(tmp_path: Path, rows: LabelledData) -> None:
    given = teacher(tmp_path / "teacher")
    whole = loaded(given.path)
    least = trim(tmp_path / "least", rows, given)
    more = trim(tmp_path / "more", rows, given, Trim(True, 1000, 110, 0, False))
    assert len(more.teacher_ids) == 110
    words = [i for i in range(whole.get_vocab_size()) if len(whole.id_to_token(i)) > 3]
    kept = [i for i in words if i in more.teacher_ids]
    assert kept == words[: len(kept)]
    filled = trim(tmp_path / "all", rows, given, Trim(True, 1, 10**6, share=False))
    assert filled.teacher_ids == list(range(whole.get_vocab_size()))
    assert set(least.teacher_ids) <= set(filled.teacher_ids)


@pytest.mark.parametrize(("model_type", "kind"), [("roberta", "BPE"), ("xlm-roberta", "Unigram")])
def test_another_kind_of_tokenizer_is_left_whole_and_says_so(
    tmp_path: Path, rows: LabelledData, model_type: str, kind: str
) -> None:
    given = teacher(tmp_path / "teacher", model_type)
    vocabulary = trim(tmp_path, rows, given)
    assert kind in vocabulary.facts["left_whole"]
    assert vocabulary.facts["tokenizer"] == kind
    assert vocabulary.teacher_ids == list(range(loaded(given.path).get_vocab_size()))
    for text, _ in data.read(rows.path).dev:
        assert loaded(vocabulary.tokenizer).encode(text).ids == loaded(given.path).encode(text).ids
    assert vocabulary.facts["resegmented_rate_dev"] == 0
    assert vocabulary.facts["pad_token_id"] == 1


SHARED = Trim(enabled=True, min_tokens=0, coverage=0)


def cosine(table: np.ndarray, a: int, b: int) -> float:
    """Returns that of two rows, in float64."""
    one, other = table[a].astype(np.float64), table[b].astype(np.float64)
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


@pytest.mark.parametrize("model_type", ["bert", "electra", "distilbert", "roberta", "xlm-roberta"])
def test_a_token_without_a_row_reads_that_of_the_nearest(tmp_path: Path, rows: LabelledData, model_type: str) -> None:
    folder = tiny.write_teacher(tmp_path / "teacher", model_type=model_type)
    vocabulary = trim(tmp_path, rows, Teacher(folder, ""), SHARED)
    before, after = loaded(folder), loaded(vocabulary.tokenizer)
    for text, _ in (*data.read(rows.path).train, *data.read(rows.path).dev, ("sunny zebra", "")):
        assert after.encode(text).tokens == before.encode(text).tokens
    owners, ids = vocabulary.row_owners, vocabulary.teacher_ids
    own = [token for token, owner in enumerate(owners) if token == owner]
    assert len(own) == vocabulary.facts["table_rows"] < len(ids) == vocabulary.facts["tokens_after"]
    used = {token for text, _ in data.read(rows.path).train for token in after.encode(text).ids}
    names = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<pad>", "<unk>", "<s>", "</s>", "<mask>"
    special = {after.token_to_id(name) for name in names} - {None}
    assert used | special <= set(own)
    table = load_teacher(folder)[0].embeddings.word.weight.detach().numpy()[ids]
    for token in set(range(len(ids))) - set(own):
        largest = max(cosine(table, token, other) for other in set(own) - special)
        assert owners[token] not in special
        assert cosine(table, token, owners[token]) == pytest.approx(largest, abs=1e-6)  # a teacher's words may be alike
    dev = [after.encode(text).ids for text, _ in data.read(rows.path).dev]
    sharing = np.mean([any(token not in own for token in row) for row in dev])
    assert vocabulary.facts["shared_rate_dev"] == pytest.approx(sharing)


def test_rows_are_added_until_dev_is_covered(tmp_path: Path) -> None:
    rows: LabelledData = tiny.labelled(tmp_path, tiny.write_data(tmp_path / "many", rows=40, dev=40, test=4))
    folder = tiny.write_teacher(tmp_path / "teacher")
    dev = {token for text, _ in data.read(rows.path).dev for token in loaded(folder).encode(text).ids}
    least = trim(tmp_path / "least", rows, Teacher(folder, ""), Trim(True, min_count=1000, min_tokens=0, coverage=0))
    most = trim(tmp_path / "most", rows, Teacher(folder, ""), Trim(True, min_count=1000, min_tokens=0, coverage=1))

    def own(vocabulary: Vocabulary) -> set[int]:
        return {vocabulary.teacher_ids[token] for token in set(vocabulary.row_owners)}

    assert not dev <= own(least)
    assert dev <= own(most)


def test_rows_are_added_in_steps_from_the_front_as_far_as_there_is_room() -> None:
    candidates = Candidates(frozenset({90_000}), range(3000))
    asked = [90_000, *range(700, 1700)]

    def chosen(coverage: float, least: int, most: int = 10**6, asked: Sequence[int] = asked) -> list[int]:
        return covering(candidates, asked, coverage, least, most)

    assert chosen(0.0, 100) == [*range(99), 90_000]
    assert len(chosen(0.3, 100)) == 100 + 2 * 500, "of 1,001 asked 301 have rows once 1,001 have"
    assert len(chosen(0.301, 100)) == 100 + 2 * 500
    assert len(chosen(0.5, 100)) == 100 + 3 * 500
    assert len(chosen(1.0, 100)) == 100 + 4 * 500
    assert len(chosen(1.0, 100, most=900)) == 900
    assert len(chosen(1.0, 2500, most=900)) == 2500
    assert len(chosen(1.0, 100, asked=[5000])) == 3001, "all that there are, where one can have none"
    assert len(chosen(1.0, 100, asked=[])) == 100
    assert set(range(700, 1700)) <= set(chosen(1.0, 0))


def test_without_any_row_that_stands_for_text_nothing_can_be_shared(tmp_path: Path, rows: LabelledData) -> None:
    given = Teacher(tiny.write_teacher(tmp_path / "teacher", model_type="xlm-roberta"), "")
    with pytest.raises(RecipeError, match="leave no token a row"):
        trim(tmp_path, rows, given, Trim(True, min_count=10**6, min_tokens=0, coverage=0))


def test_mpnet_whose_padding_is_one_is_trimmed(tmp_path: Path, rows: LabelledData) -> None:
    vocabulary = trim(tmp_path, rows, teacher(tmp_path / "teacher", "mpnet"))
    assert vocabulary.facts["pad_token_id"] == 1
    assert "left_whole" not in vocabulary.facts
    assert loaded(vocabulary.tokenizer).encode("rain").tokens[::2] == ["<s>", "</s>"]


def test_when_disabled_everything_stays(tmp_path: Path, rows: LabelledData) -> None:
    given = teacher(tmp_path / "teacher")
    vocabulary = trim(tmp_path, rows, given, Trim(enabled=False))
    assert vocabulary.teacher_ids == list(range(loaded(given.path).get_vocab_size()))
    assert vocabulary.facts["left_whole"]


def test_it_is_on_by_default_where_the_target_limits_the_size() -> None:
    target = load_target("x86-64")
    assert target.budget.file_bytes is not None
    assert Trim().resolved(target).enabled is True
    assert Trim(enabled=False).resolved(target).enabled is False


def test_the_longest_input_is_that_of_training_rounded_up_within_the_positions(
    tmp_path: Path, rows: LabelledData
) -> None:
    given = teacher(tmp_path / "teacher")
    facts = trim(tmp_path, rows, given).facts
    longest = max(len(loaded(given.path).encode(text).ids) for text, _ in data.read(rows.path).train)
    assert facts["longest_train_row"] == longest
    assert facts["max_length"] == -(-longest // 16) * 16
    short = teacher(tmp_path / "short", "mpnet", max_position_embeddings=11)  # two of which are never read
    vocabulary = trim(tmp_path / "b", rows, short)
    assert vocabulary.max_length == 9
    assert vocabulary.facts["train_rows_cut"] > 0
    text = data.read(rows.path).train[0][0]
    assert len(encode(load_tokenizer(vocabulary.tokenizer, vocabulary.max_length), [text * 3])[0]) == 9


def test_rows_that_are_cut_are_counted_by_the_students_own_tokenizer_and_refused_where_asked(
    tmp_path: Path, rows: LabelledData
) -> None:
    given = teacher(tmp_path / "teacher")
    vocabulary = trim(tmp_path, rows, given, Trim(max_length=8))
    dataset, tokenizer = data.read(rows.path), loaded(vocabulary.tokenizer)
    lengths = {
        name: [len(tokenizer.encode(text).ids) for text, _ in pairs]
        for name, pairs in (("train", dataset.train), ("dev", dataset.dev), ("test", dataset.test))
    }
    for name, found in lengths.items():
        assert vocabulary.facts[f"{name}_rows_cut"] == sum(length > 8 for length in found)
    (finding,) = vocabulary.facts["findings"]
    longest = max(map(max, lengths.values()))
    assert f"{vocabulary.facts['test_rows_cut']} of {len(dataset.test)} rows of test" in finding["detail"]
    assert f"the longest {longest}, and are cut there" in finding["detail"]
    assert finding["cure"].startswith(f"--set trim.max_length={longest}")
    with pytest.raises(DataError, match=rf"have more than 8 tokens, .* --set trim\.max_length={longest}"):
        trim(tmp_path / "strict", rows, given, Trim(max_length=8, strict=True))
    whole = trim(tmp_path / "whole", rows, given, Trim(max_length=longest, strict=True))
    assert whole.facts["findings"] == []
    assert whole.facts["train_rows_cut"] == whole.facts["test_rows_cut"] == 0


def test_a_length_beyond_the_teachers_positions_is_refused(tmp_path: Path, rows: LabelledData) -> None:
    with pytest.raises(RecipeError, match="the teacher reads 64 tokens"):
        trim(tmp_path, rows, stage=Trim(True, max_length=65))
    assert trim(tmp_path / "b", rows, stage=Trim(True, max_length=64)).max_length == 64


@pytest.mark.parametrize(
    "given", [{"min_count": 0}, {"min_tokens": -1}, {"coverage": 1.1}, {"max_length": 7}, {"max_length": 513}]
)
def test_impossible_options_are_refused(given: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must"):
        Trim(**given)


def test_equal_inputs_give_equal_bytes(tmp_path: Path, rows: LabelledData) -> None:
    given = teacher(tmp_path / "teacher")
    assert trim(tmp_path / "a", rows, given).digest == trim(tmp_path / "b", rows, given).digest


def test_the_table_has_room_for_rows_of_the_form_that_the_search_may_store_them_in() -> None:
    assert Trim().knowing({}).word_form == SMALLER
    assert Trim().knowing({"quantize": {"embedding": "int8"}}).word_form == "int8"
    assert Trim().knowing({"distill": {"layers": "2"}}).word_form == "int8"
    named = {"quantize": {"embedding": "int4-blocks"}}
    assert Trim().knowing(named).word_form == Trim().knowing({"distill": {"layers": "2"}} | named).word_form == SMALLER
