"""Runs the teacher once over train, texts without labels, views of both, and dev, and keeps what students learn from.

Of more text than it reads in some minutes it takes a draw: a search has no time to train on more either. The teacher
reads each row in its own tokenisation. Kept are its logits and the first token's state after each layer:
the one token that the head reads, and the one whose meaning does not change when the student's vocabulary cuts a word
differently.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from edgekit import augment, data, frontends
from edgekit.artifact import FACTS, LabelledData, Teacher, TeacherOutputs, Vocabulary, file_digest, write_json
from edgekit.checkpoint import inspect, load_classifier, position_limit, read_labels
from edgekit.inference import run_rows
from edgekit.quant.findings import Finding
from edgekit.search.request import wanted
from edgekit.stage import INTERNAL, Context, Inputs, Pass
from edgekit.target import Target
from edgekit.tasks import load_task

if TYPE_CHECKING:
    from edgekit.ir.encoder import EdgekitForSequenceClassification

ROWS, VIEWS, UNLABELLED = "rows.json", "views.json", "unlabelled.json"

SEARCHED_VIEWS = 8
"""Views of a text where the structure is searched: small students learn from them what two thousand texts do not say
(docs/log.md)."""

MOST_TOKENS = 1_800_000
"""Tokens that the teacher reads at most where the structure is searched: 120,000 short texts. It would otherwise take
as long as all else that a build does."""

USUAL_WEIGHTS = 1.1e7
"""Of the layers of a teacher that reads so many: six layers 384 wide. Larger ones read fewer, as they take longer."""

LEAST_ROWS = 2000
"""Rows of train that are drawn at least, however long they are and however large the teacher."""


@dataclass(frozen=True)
class Teach(Pass):
    """Records the teacher's outputs on the splits that students learn from and are chosen on; never on test.

    Attributes:
        views: further views of each text that the teacher labels too (`edgekit.augment`). None makes eight where the
            structure is searched, fewer of large sets, and none where the structure is given.
        view_rate: share of words that a reworded view changes.
        most_tokens: that a teacher of MiniLM's size reads of texts and views together; larger ones less, likewise.
            Fewer views are made first, where `views` does not say how many; of more text than that a draw is taken. 0
            is no bound. None is 1.8 million where the structure is searched, and no bound where it is given.
        unlabelled: a file of further texts, without labels, that students learn from as from the training texts.
        unlabelled_digest: of that file, filled in by `resolved`, so that an edited one is another action.
        searched: whether the structure is searched, filled in by `knowing`.
    """

    views: int | None = None
    view_rate: float = 0.2
    most_tokens: int | None = None
    unlabelled: str = ""
    unlabelled_digest: str = dataclasses.field(default="", metadata=INTERNAL)
    searched: bool = dataclasses.field(default=False, metadata=INTERNAL)

    NAME: ClassVar[str] = "teach"
    VERSION: ClassVar[int] = 9
    IN: ClassVar = (Teacher, LabelledData, Vocabulary)
    OUT: ClassVar = TeacherOutputs
    TOOLS: ClassVar = ("torch", "transformers", "tokenizers", "optimum", "regex", "numpy")

    def __post_init__(self) -> None:
        if (self.views or 0) < 0 or not 0 < self.view_rate <= 1:
            raise ValueError("views must not be negative, view_rate lie in (0, 1]")
        if (self.most_tokens or 0) < 0:
            raise ValueError(f"most_tokens is {self.most_tokens}; it must not be negative")
        if self.unlabelled and not Path(self.unlabelled).is_file():
            raise ValueError(f"unlabelled names {self.unlabelled}, which is no file")

    def knowing(self, options: Mapping[str, Mapping[str, Any]]) -> Teach:
        """Returns the stage knowing whether the recipe leaves the structure to the search."""
        return dataclasses.replace(self, searched=wanted(options))

    def resolved(self, target: Target) -> Teach:
        """Returns the stage with the digest of its file, so that an edited one is run anew."""
        return dataclasses.replace(
            self, unlabelled_digest=file_digest(Path(self.unlabelled)) if self.unlabelled else ""
        )

    def requires(self, inputs: Inputs, ctx: Context) -> None:
        """Refuses an architecture that no frontend serves."""
        frontends.check(inspect(inputs[Teacher].path, ctx.task).model_type)

    def run(self, inputs: Inputs, out_dir: Path, ctx: Context) -> None:
        """Writes `<split>.logits.npy` (float32), `<split>.states.npy` (float16), and the texts that have no label."""
        teacher = inputs[Teacher].path
        dataset = data.read(inputs[LabelledData].path)
        classes = load_task(ctx.task).align(read_labels(teacher), dataset.labels)
        model, pad_id = load_teacher(teacher)
        most = self._most_tokens(model)
        texts = [text for text, _ in dataset.train]
        taken, ids = _within(encode_for_teacher(teacher, texts), most, ctx.seed)
        given = self._unlabelled(dataset, load_task(ctx.task).COLUMNS)
        added, more = _within(encode_for_teacher(teacher, given) if given else [], most, ctx.seed)
        further, pairs = [given[i] for i in added], [dataset.train[i] for i in taken]
        train = [text for text, _ in pairs] + further
        write_json(out_dir / ROWS, taken)
        write_json(out_dir / UNLABELLED, further)
        table = model.embeddings.word.weight.detach().numpy()
        encoded = {"train": ids + more}
        kept = inputs[Vocabulary].teacher_ids
        views = self._views_of(encoded["train"], most) if augment.in_words(train) else 0
        extra = _views(teacher, table, train, kept, views, self.view_rate, ctx.seed)
        write_json(out_dir / VIEWS, extra)
        left_out = len(texts) + len(given) - len(train)
        facts: dict[str, Any] = {"unlabelled": len(further), "views": len(extra), "left_out": left_out}
        facts["findings"] = [dataclasses.asdict(texts_left_out(left_out, len(texts) + len(given)))] if left_out else []
        encoded["train"] += encode_for_teacher(teacher, extra) if extra else []
        encoded["dev"] = encode_for_teacher(teacher, [text for text, _ in dataset.dev])
        for split, rows in (("train", pairs), ("dev", dataset.dev)):
            shape = (len(encoded[split]), len(model.config.heads) + 1, model.config.hidden_size)
            states = _mapped(out_dir / f"{split}.states.npy", shape)
            logits = run_rows(model, encoded[split], pad_id, ctx.progress, states)
            states.flush()
            np.save(out_dir / f"{split}.logits.npy", logits)
            expected = np.array([classes[label] for _, label in rows])
            facts[f"accuracy_{split}"] = load_task(ctx.task).metric(logits[: len(rows)], expected)
        write_json(out_dir / FACTS, facts)

    def _most_tokens(self, model: EdgekitForSequenceClassification) -> float:
        """Returns how many tokens this teacher reads at most."""
        most = self.most_tokens if self.most_tokens is not None else MOST_TOKENS if self.searched else 0
        weights = sum(p.numel() for p in model.layers.parameters())
        return most * min(1.0, USUAL_WEIGHTS / weights) if most else math.inf

    def _views_of(self, texts: Sequence[np.ndarray], most: float) -> int:
        if self.views is not None or not self.searched:
            return self.views or 0
        return int(min(SEARCHED_VIEWS, max(0, most // sum(map(len, texts)) - 1)))

    def _unlabelled(self, dataset: data.Dataset, columns: Mapping[str, Sequence[str]]) -> list[str]:
        """Returns the texts of the file that no split has: what is reported on is not learned from."""
        if not self.unlabelled:
            return []
        known = {text.strip() for rows in dataset.splits().values() for text, _ in rows}
        rows = data.read_rows(Path(self.unlabelled), data.Columns({data.TEXT: columns[data.TEXT]}))
        return [text for text in dict.fromkeys(row[data.TEXT] for row in rows) if text.strip() not in known]


def _within(rows: Sequence[np.ndarray], most: float, seed: int) -> tuple[list[int], list[np.ndarray]]:
    """Draws rows of so many tokens, at least `LEAST_ROWS`; returns their numbers, increasing, and themselves."""
    drawn = list(range(len(rows)))
    if sum(map(len, rows)) > most:
        order = np.random.Generator(np.random.PCG64([seed, len(rows)])).permutation(len(rows)).tolist()
        fit = int(np.searchsorted(np.cumsum([len(rows[i]) for i in order]), most, side="right"))
        drawn = sorted(order[: max(fit, LEAST_ROWS)])
    return drawn, [rows[i] for i in drawn]


def texts_left_out(count: int, total: int) -> Finding:
    """Says that the teacher did not answer every text."""
    return Finding(
        "texts-left-out",
        "train",
        f"the teacher has no time for {count:,} of {total:,} texts",
        "students learn from a draw of the others, the same for every target",
        "--set teach.most_tokens=0 takes all; the search then wants more steps too (search.max_steps)",
    )


def answered(dataset: data.Dataset, outputs: TeacherOutputs) -> data.Dataset:
    """Returns the data set with those rows of train alone that the teacher answered, in the order of its outputs."""
    return dataclasses.replace(dataset, train=tuple(dataset.train[i] for i in outputs.rows))


def _mapped(path: Path, shape: tuple[int, ...]) -> np.memmap[Any, np.dtype[np.float16]]:
    """Makes a float16 array in a file and maps it, its space taken first: a mapped write to a full disk is a SIGBUS."""
    array = np.lib.format.open_memmap(path, "w+", np.float16, shape)
    with path.open("r+b") as stream:
        stream.seek(array.offset)
        for start in range(0, array.nbytes, 1 << 20):
            stream.write(bytes(min(1 << 20, array.nbytes - start)))
    return array


def _views(
    teacher: Path, table: np.ndarray, texts: Sequence[str], kept: Sequence[int], count: int, rate: float, seed: int
) -> list[str]:
    """Makes views of the training texts with the words that the student's vocabulary has."""
    from transformers import AutoTokenizer

    if not count:
        return []
    tokenizer = AutoTokenizer.from_pretrained(teacher, local_files_only=True)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    prefix = model["continuing_subword_prefix"] if model["type"] == "WordPiece" else None
    words = augment.whole_words(tokenizer.get_vocab(), kept, prefix)
    used = {word for text in texts for word in augment.words_of(text.lower())}
    return augment.views(texts, augment.neighbours(table, words, used), count, rate, seed)


def load_teacher(path: Path) -> tuple[EdgekitForSequenceClassification, int]:
    """Loads a fine-tuned checkpoint into the IR, its last norm evened out; returns it with its padding id."""
    from edgekit.ir.equalise import fold_outliers

    model = load_classifier(path)
    teacher = frontends.build(model)
    fold_outliers(teacher)
    return teacher, model.config.pad_token_id or 0


def with_vocabulary(
    model: EdgekitForSequenceClassification, vocabulary: Vocabulary
) -> EdgekitForSequenceClassification:
    """Returns a teacher's model that reads the student's tokens, with the student's rows and longest input."""
    from edgekit.ir.surgery import keep_positions, keep_vocabulary, share_words

    model = keep_positions(model, vocabulary.max_length)
    model = keep_vocabulary(model, vocabulary.teacher_ids, {"pad_token_id": vocabulary.facts["pad_token_id"]})
    owners = vocabulary.row_owners
    return share_words(model, owners) if len(set(owners)) < len(owners) else model


def encode_for_teacher(path: Path, texts: Sequence[str]) -> list[np.ndarray]:
    """Returns the texts' ids in the teacher's own tokenisation, cut at its longest input."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    longest = min(tokenizer.model_max_length, position_limit(path))
    encoded = tokenizer(list(texts), truncation=True, max_length=longest, padding=False)["input_ids"]
    return [np.array(ids, dtype=np.int64) for ids in encoded]
