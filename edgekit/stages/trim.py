"""Cuts the word table to the rows that the training data and the special tokens need.

Half of a small encoder's parameters are its word table, and a task's texts use a tenth of it. Rows of their own keep
the special tokens, the pieces that the training split uses at least `min_count` times, and, of WordPiece, every single
character (at the start of a word and inside it) of the scripts that it is written in. A small training split knows few
of the words that users will say. Vocabularies are ordered by frequency, so a small remainder is filled up from the
front of the original one: the words most likely to be met. How many that takes dev says, whose texts training has not
seen either: rows are added until nearly all of its tokens have their own.

Every other token reads the row of the one whose embedding is nearest: a word that users say and training does not is
then taken for one like it. Without `share` it goes from the vocabulary, and the word is cut into smaller pieces, as
WordPiece does with any unknown one; of two thousand rows' students that costs up to three points (docs/log.md). A
WordPiece vocabulary loses the tokens of other scripts either way; other kinds of tokenizers stay as they are.

Ref: Ushio et al. 2023, VocabTrimmer (2305.15020), for what is cut away. Sharing rows is vector quantization of the
table whose code book are the rows that stay (Gray 1984).
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from edgekit import data
from edgekit.artifact import FACTS, LabelledData, Teacher, Vocabulary, write_json
from edgekit.checkpoint import embedding_width, position_limit
from edgekit.errors import ModelError, RecipeError
from edgekit.stage import Context, Inputs, Pass
from edgekit.stages.teach import load_teacher
from edgekit.target import Target

LENGTH_STEP = 16
"""The longest input is rounded up to a multiple of this many tokens: room for rows longer than training's."""

ROWS_STEP = 500
"""Rows are added so many at a time."""

TABLE_SHARE = 0.6
"""Share of a file's limit that the word table may take at half its width: layers need the rest, and the search
factorises the table where they need more."""


_RESERVED = re.compile(r"\[.*\]")  # [unused0] and its like: no text ever uses them


@dataclass(frozen=True)
class Trim(Pass):
    """Makes the student's tokenizer, and says which rows of the word table it keeps.

    Attributes:
        enabled: whether to cut; None cuts for targets that limit the file's size.
        min_count: uses in the training split from which a token keeps its row.
        min_tokens: where fewer do, tokens from the front of the vocabulary keep theirs up to this many.
        coverage: share of dev's tokens that have rows of their own; where it is less, more from the front get some, as
            far as the target's limit of the file's size leaves room for them.
        share: whether the others read the row of the nearest token; otherwise WordPiece loses them, and tokenizers of
            another kind keep all rows.
        max_length: longest input in tokens; 0 takes it from the training split, at most 256.
    """

    enabled: bool | None = None
    min_count: int = 1
    min_tokens: int = 6000
    coverage: float = 0.99
    share: bool = True
    max_length: int = 0

    NAME: ClassVar[str] = "trim"
    VERSION: ClassVar[int] = 2
    IN: ClassVar = (Teacher, LabelledData)
    OUT: ClassVar = Vocabulary
    READS: ClassVar[tuple[str, ...]] = ("budget.file_bytes",)
    TOOLS: ClassVar = ("torch", "tokenizers", "transformers", "optimum", "numpy")

    def __post_init__(self) -> None:
        if self.min_count < 1:
            raise ValueError(f"min_count is {self.min_count}; it must be at least 1")
        if self.min_tokens < 0:
            raise ValueError(f"min_tokens is {self.min_tokens}; it must not be negative")
        if not 0 <= self.coverage <= 1:
            raise ValueError(f"coverage is {self.coverage}; it must lie between 0 and 1")
        if self.max_length != 0 and not 8 <= self.max_length <= 512:
            raise ValueError(f"max_length is {self.max_length}; it must lie between 8 and 512 tokens, or be 0")

    def resolved(self, target: Target) -> Trim:
        """Returns the stage with `enabled` decided by a limit of the file's size, and a fixed input length taken over.

        Raises:
            RecipeError: `max_length` contradicts the target's fixed length.
        """
        enabled = target.budget.file_bytes is not None if self.enabled is None else self.enabled
        fixed = target.shape.sequence_length
        if fixed == "dynamic":
            return dataclasses.replace(self, enabled=enabled)
        if self.max_length not in (0, fixed):
            raise RecipeError(f"trim.max_length is {self.max_length}, but the target's input has {fixed} tokens")
        return dataclasses.replace(self, enabled=enabled, max_length=int(fixed))

    def requires(self, inputs: Inputs, ctx: Context) -> None:
        """Refuses rows longer than the teacher reads."""
        positions = position_limit(inputs[Teacher].path)
        if self.max_length > positions:
            raise RecipeError(f"trim.max_length is {self.max_length}, but the teacher reads {positions} tokens at most")

    def run(self, inputs: Inputs, out_dir: Path, ctx: Context) -> None:
        """Writes tokenizer/, teacher_ids.json, row_owners.json and facts."""
        from tokenizers import Tokenizer
        from transformers import AutoTokenizer

        teacher = inputs[Teacher].path
        dataset = data.read(inputs[LabelledData].path)
        try:
            source = AutoTokenizer.from_pretrained(teacher, local_files_only=True)
            original = Tokenizer.from_str(source.backend_tokenizer.to_str())
        except (MemoryError, OSError):
            raise
        except Exception as error:  # whatever a damaged tokenizer makes the libraries stumble over
            raise ModelError(
                f"{teacher}: its tokenizer cannot be loaded ({type(error).__name__}: {error}); copy it again"
            ) from error
        original.no_padding()
        original.no_truncation()
        train, dev = [text for text, _ in dataset.train], [text for text, _ in dataset.dev]
        encoded = original.encode_batch(train)
        longest = max(len(e.ids) for e in encoded)
        max_length = self.max_length or min(-(-longest // LENGTH_STEP) * LENGTH_STEP, 256, position_limit(teacher))

        description = json.loads(original.to_str())
        kind = description["model"]["type"]
        # Up to the last id, not as many as there are tokens: some vocabularies have gaps.
        ids = list(range(max(original.get_vocab(with_added_tokens=True).values()) + 1))
        owned, trimmed, note = ids, original, ""
        counts = Counter(token for e in encoded for token in e.ids)
        asked = [token for e in original.encode_batch(dev) for token in e.ids]
        width, limit = embedding_width(teacher), ctx.target["budget.file_bytes"]
        room = len(ids) if limit is None else int(TABLE_SHARE * limit / (width / 2))

        def owning(wanted: int) -> list[int]:
            if kind == "WordPiece":
                return kept_ids(description, counts, self.min_count, wanted, train)
            return used_ids(description, ids, counts, self.min_count, wanted)

        if not self.enabled:
            note = "the target does not limit the file's size"
        elif kind != "WordPiece":
            note = f"{kind} vocabularies keep their tokens; only WordPiece's are cut so far"
            if self.share:
                owned = covering(owning, asked, self.coverage, self.min_tokens, room)
        else:
            owned = covering(owning, asked, self.coverage, self.min_tokens, room)
            ids = owning(len(ids)) if self.share else owned
            description = renumbered(description, {old: new for new, old in enumerate(ids)})
            trimmed = Tokenizer.from_str(json.dumps(description))
        owners = row_owners(teacher, ids, owned, special_ids(json.loads(original.to_str())))

        folder = out_dir / "tokenizer"
        folder.mkdir()
        trimmed.save(str(folder / "tokenizer.json"))
        write_json(folder / "tokenizer_config.json", _tokenizer_config(source, max_length))
        write_json(out_dir / "teacher_ids.json", ids)
        write_json(out_dir / "row_owners.json", owners)
        rates = {
            "unknown_rate_dev_before": unknown_rate(original, dev, source.unk_token_id),
            "unknown_rate_dev_after": unknown_rate(trimmed, dev, trimmed.token_to_id(source.unk_token or "")),
            "resegmented_rate_dev": _resegmented(original, trimmed, dev),
            "shared_rate_dev": _sharing(trimmed, dev, owners),
        }
        facts = {
            "tokenizer": kind,
            "tokens_before": len(original.get_vocab(with_added_tokens=True)),
            "tokens_after": len(ids),
            "table_rows": len(owned),
            "max_length": max_length,
            "longest_train_row": longest,
            "train_rows_cut": sum(len(e.ids) > max_length for e in encoded),
            "pad_token_id": trimmed.token_to_id(source.pad_token) if source.pad_token else 0,
        }
        if note:
            facts["left_whole"] = note
        write_json(out_dir / FACTS, facts | rates)


def kept_ids(
    description: Mapping[str, Any], counts: Mapping[int, int], min_count: int, min_tokens: int, texts: Sequence[str]
) -> list[int]:
    """Chooses the tokens that stay.

    Args:
        description: parsed tokenizer.json of a WordPiece tokenizer.
        counts: uses of each token id in the training split.
        min_count: uses from which a token stays.
        min_tokens: tokens that stay at least, where there are as many.
        texts: the training split, whose scripts decide which characters stay.

    Returns:
        Old ids in increasing order, so that the new order is the old one.
    """
    model = description["model"]
    prefix = model["continuing_subword_prefix"]
    special = special_ids(description)
    scripts = {_script(character) for character in set("".join(texts))}
    kept = set(special)
    for token, index in model["vocab"].items():
        bare = token.removeprefix(prefix)
        character = len(bare) == 1 and (bare.isascii() or _script(bare) in scripts)
        if character or counts.get(index, 0) >= min_count:
            kept.add(index)
    for token, index in sorted(model["vocab"].items(), key=lambda item: item[1]):
        if len(kept) >= min_tokens:
            break
        bare = token.removeprefix(prefix)
        if len(bare) > 1 and not _RESERVED.fullmatch(token) and {_script(c) for c in bare} <= scripts:
            kept.add(index)
    return sorted(kept)


def covering(
    owning: Callable[[int], list[int]], asked: Sequence[int], coverage: float, least: int, most: int
) -> list[int]:
    """Chooses as few tokens as have rows for most of what is asked.

    Args:
        owning: returns the tokens that keep their rows where at least so many are wanted.
        asked: token ids of texts that they were not chosen by.
        coverage: share of `asked` that must be among them, in [0, 1].
        least: wanted at first.
        most: beyond which no more are wanted, if that is more than `least`.
    """
    wanted = least
    owned = owning(wanted)
    while wanted < most and sum(map(set(owned).__contains__, asked)) < coverage * len(asked):
        wanted = max(wanted, len(owned)) + ROWS_STEP
        more = owning(min(wanted, most))
        if len(more) == len(owned):  # there are no more
            break
        owned = more
    return owned


def special_ids(description: Mapping[str, Any]) -> set[int]:
    """Returns the ids of a parsed tokenizer.json that stand for no text: the added tokens and the unknown one."""
    model = description["model"]
    special = {token["id"] for token in description["added_tokens"]}
    if isinstance(model.get("unk_id"), int):  # Unigram
        special.add(model["unk_id"])
    elif model.get("unk_token") in model["vocab"]:
        special.add(model["vocab"][model["unk_token"]])
    return special


def used_ids(
    description: Mapping[str, Any], ids: Sequence[int], counts: Mapping[int, int], min_count: int, min_tokens: int
) -> list[int]:
    """Chooses the tokens of a tokenizer that is not WordPiece's that keep their rows.

    Args:
        description: its parsed tokenizer.json.
        ids: of its tokens, the most frequent first, as BPE's merges and Unigram's pieces are.
        counts: uses of each token id in the training split.
        min_count: uses from which a token keeps its row.
        min_tokens: tokens that keep theirs at least, where there are as many.

    Returns:
        Ids in increasing order.
    """
    kept = special_ids(description) | {index for index in ids if counts.get(index, 0) >= min_count}
    filling = (index for index in ids if index not in kept)
    kept |= set(itertools.islice(filling, max(0, min_tokens - len(kept))))
    return sorted(kept)


def row_owners(teacher: Path, ids: Sequence[int], owned: Sequence[int], special: Iterable[int]) -> list[int]:
    """Returns for each token the one whose row it reads: its own, or the nearest one's by the teacher's word table.

    Args:
        teacher: folder of the checkpoint.
        ids: the teacher's id of each of the student's tokens.
        owned: those of them that keep their rows.
        special: ids that stand for no text, and for no other token.

    Raises:
        RecipeError: no token that stands for text keeps its row.
    """
    place = {token: number for number, token in enumerate(ids)}
    others = sorted(set(ids) - set(owned))
    owners = list(range(len(ids)))
    if others:
        table = load_teacher(teacher)[0].embeddings.word.weight.detach().numpy()
        among = sorted(set(owned) - set(special))
        if not among:
            raise RecipeError("trim.min_count and trim.min_tokens leave no token a row of its own; lower the one")
        for token, owner in zip(others, nearest(table, others, among), strict=True):
            owners[place[token]] = place[int(owner)]
    return owners


def nearest(table: np.ndarray, tokens: Sequence[int], among: Sequence[int]) -> np.ndarray:
    """Returns for each token the one of `among` whose row has the largest cosine with its own; of equals the first.

    Args:
        table: (rows, width), float32.
        tokens, among: rows of it; `among` has at least one.
    """
    candidates = np.asarray(among)
    unit = _unit(table[candidates])
    found = [
        np.argmax(_unit(table[np.asarray(tokens[start : start + 1024])]) @ unit.T, axis=1)
        for start in range(0, len(tokens), 1024)
    ]
    chosen: np.ndarray = candidates[np.concatenate(found)]
    return chosen


def _unit(rows: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: np.ndarray = rows / np.maximum(length, np.finfo(np.float32).tiny)
    return unit


def _script(character: str) -> str:
    """Returns the first word of the character's Unicode name, which for letters is their script."""
    return unicodedata.name(character, "UNNAMED").split()[0].split("-")[0]


def renumbered(description: Mapping[str, Any], new_ids: Mapping[int, int]) -> dict[str, Any]:
    """Returns a WordPiece tokenizer.json with only the tokens in `new_ids`, under their new ids.

    The ids stand in the model's vocabulary, the added tokens, the post-processor and the padding.
    """
    result: dict[str, Any] = json.loads(json.dumps(description))
    vocabulary = result["model"]["vocab"]
    result["model"]["vocab"] = {t: new_ids[i] for t, i in vocabulary.items() if i in new_ids}
    for token in result["added_tokens"]:
        token["id"] = new_ids[token["id"]]
    _renumber_processor(result.get("post_processor"), new_ids)
    if result.get("padding"):
        result["padding"]["pad_id"] = new_ids[result["padding"]["pad_id"]]
    return result


def _renumber_processor(processor: dict[str, Any] | None, new_ids: Mapping[int, int]) -> None:
    if processor is None:
        return
    for part in processor.get("processors", ()):  # a Sequence holds others
        _renumber_processor(part, new_ids)
    special = processor.get("special_tokens")
    if isinstance(special, dict):  # TemplateProcessing
        for entry in special.values():
            entry["ids"] = [new_ids[i] for i in entry["ids"]]
    for end in ("cls", "sep"):  # BertProcessing
        if isinstance(processor.get(end), list):
            token, index = processor[end]
            processor[end] = [token, new_ids[index]]


def unknown_rate(tokenizer: Any, texts: Iterable[str], unknown_id: int | None) -> float:
    """Returns the share of tokens that are unknown, special tokens not counted; 0 for a tokenizer that has none."""
    encoded = [e.ids for e in tokenizer.encode_batch(list(texts), add_special_tokens=False)]
    total = sum(len(ids) for ids in encoded)
    return sum(ids.count(unknown_id) for ids in encoded) / total if total and unknown_id is not None else 0.0


def _resegmented(original: Any, trimmed: Any, texts: Sequence[str]) -> float:
    """Returns the share of rows that the trimmed tokenizer cuts into other pieces."""
    before, after = original.encode_batch(list(texts)), trimmed.encode_batch(list(texts))
    share: float = sum(a.tokens != b.tokens for a, b in zip(before, after, strict=True)) / max(len(before), 1)
    return share


def _sharing(tokenizer: Any, texts: Sequence[str], owners: Sequence[int]) -> float:
    """Returns the share of rows with a token that reads another's row of the word table."""
    rows = [e.ids for e in tokenizer.encode_batch(list(texts))]
    return sum(any(owners[token] != token for token in row) for row in rows) / max(len(rows), 1)


def _tokenizer_config(source: Any, max_length: int) -> dict[str, Any]:
    names = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token", "bos_token", "eos_token")
    special = {name: getattr(source, name, None) for name in names}
    return {k: v for k, v in special.items() if v is not None} | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "padding_side": "right",
        "model_input_names": ["input_ids", "attention_mask"],
    }
