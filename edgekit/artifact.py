"""Kinds of artifacts: typed, immutable directories that stages make from one another.

An artifact is a path and the digest of what lies there. Its class says what files it holds; stages declare the classes
they take and make, so that a plan can be checked before anything runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

FACTS = "facts.json"


def file_digest(path: Path) -> str:
    """Returns the sha256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def tree_digest(folder: Path, files: Iterable[Path] | None = None) -> str:
    """Returns one sha256 for a folder: of the names and digests of its files, in the order of their names.

    Args:
        folder: the root that names are relative to.
        files: the files that count; all of them by default.

    Raises:
        ValueError: a file is a symbolic link, which could change without the digest.
    """
    listed = sorted(files if files is not None else (p for p in folder.rglob("*") if not p.is_dir()))
    digest = hashlib.sha256()
    for path in listed:
        if files is None and path.is_symlink():
            raise ValueError(f"{path} is a symbolic link; artifacts hold files only")
        digest.update(f"{path.relative_to(folder).as_posix()}\0{file_digest(path)}\n".encode())
    return digest.hexdigest()


def json_text(value: object) -> str:
    """Returns canonical JSON (sorted keys, no NaN), so that equal values are equal bytes."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, value: object) -> None:
    """Writes canonical JSON."""
    path.write_text(json_text(value), encoding="utf-8")


@dataclass(frozen=True)
class Artifact:
    """A directory (or, for what the user gave, a folder that is only read) and the digest of its files."""

    path: Path
    digest: str
    KIND: ClassVar[str] = "artifact"

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the stage that made it found out; deterministic, since it is part of the digest."""
        path = self.path / FACTS
        facts: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return facts


def _only(folder: Path, pattern: str) -> Path:
    """Returns the one file of that name, whatever its suffix."""
    (found,) = folder.glob(pattern)
    return found


@dataclass(frozen=True)
class RawData(Artifact):
    """The user's data files as they are."""

    KIND = "raw-data"


@dataclass(frozen=True)
class LabelledData(Artifact):
    """Data in normal form: train, dev and test as JSON lines with their labels (`edgekit.data.read`)."""

    KIND = "labelled-data"


@dataclass(frozen=True)
class Model(Artifact):
    """A Hugging Face checkpoint as the user gave it, fine-tuned or not."""

    KIND = "model"


@dataclass(frozen=True)
class Teacher(Artifact):
    """A fine-tuned Hugging Face checkpoint with its tokenizer."""

    KIND = "teacher"


@dataclass(frozen=True)
class Vocabulary(Artifact):
    """The student's tokenizer; of each of its tokens the teacher's id, and whose row of the word table it reads."""

    KIND = "vocabulary"

    @property
    def tokenizer(self) -> Path:
        """The folder with tokenizer.json and tokenizer_config.json."""
        return self.path / "tokenizer"

    @property
    def teacher_ids(self) -> list[int]:
        """The teacher's id of each of the student's tokens, in the order of the student's ids."""
        ids: list[int] = json.loads((self.path / "teacher_ids.json").read_text(encoding="utf-8"))
        return ids

    @property
    def row_owners(self) -> list[int]:
        """For each of the student's tokens the one whose row of the word table it reads: its own, or a near word's."""
        owners: list[int] = json.loads((self.path / "row_owners.json").read_text(encoding="utf-8"))
        return owners

    @property
    def max_length(self) -> int:
        """The longest input in tokens; longer ones are cut."""
        length: int = self.facts["max_length"]
        return length


@dataclass(frozen=True)
class TeacherOutputs(Artifact):
    """The teacher's logits and first-token states on train and dev, memory-mapped: `<split>.<what>.npy`.

    Those of train are of the rows in `rows`, followed by the texts that have no label, and those by the views of both,
    in their order.
    """

    KIND = "teacher-outputs"

    @property
    def rows(self) -> list[int]:
        """The rows of train that the teacher answered, increasing: all, or a draw of more than it has time for."""
        rows: list[int] = json.loads((self.path / "rows.json").read_text(encoding="utf-8"))
        return rows

    @property
    def unlabelled(self) -> list[str]:
        """Texts of the user's that have no label but the teacher's answer."""
        texts: list[str] = json.loads((self.path / "unlabelled.json").read_text(encoding="utf-8"))
        return texts

    @property
    def views(self) -> list[str]:
        """Texts made of the others; they too have no label but the teacher's answer."""
        texts: list[str] = json.loads((self.path / "views.json").read_text(encoding="utf-8"))
        return texts

    def array(self, split: str, what: str) -> Path:
        """The file of `logits` (rows, labels) or `states` (rows, layers + 1, hidden) of a split."""
        return self.path / f"{split}.{what}.npy"


@dataclass(frozen=True)
class TeacherOutline(Artifact):
    """What the teacher's heads, channels and layers are worth."""

    KIND = "teacher-outline"

    @property
    def file(self) -> Path:
        """The JSON file (`edgekit.search.structure.Outline`)."""
        return self.path / "outline.json"


@dataclass(frozen=True)
class Plan(Artifact):
    """The student's structure, as options of the stages that make it; the facts say how it was found.

    It is no input of those stages: they depend on the options alone, so that targets with one structure share them.
    """

    KIND = "plan"

    @property
    def options(self) -> Mapping[str, Mapping[str, Any]]:
        """stage → option → value, in the place of the defaults."""
        options: Mapping[str, Mapping[str, Any]] = json.loads((self.path / "plan.json").read_text(encoding="utf-8"))
        return options


@dataclass(frozen=True)
class Floor(Artifact):
    """What a linear model of word counts reaches on the same data; the facts hold it."""

    KIND = "floor"


@dataclass(frozen=True)
class Student(Artifact):
    """A model of the IR that `from_pretrained` loads, with its tokenizer."""

    KIND = "student"


@dataclass(frozen=True)
class WideStudent(Student):
    """The student before pruning."""

    KIND = "wide-student"


@dataclass(frozen=True)
class Scores(Artifact):
    """What the loss would lose with each head and each FFN channel of the wide student."""

    KIND = "scores"

    @property
    def file(self) -> Path:
        """The arrays, as .npz (`edgekit.stages.score`)."""
        return self.path / "scores.npz"


@dataclass(frozen=True)
class EqualisedStudent(Student):
    """The student with scales moved from activations into weights; in float it answers as the student does."""

    KIND = "equalised-student"


@dataclass(frozen=True)
class Reference(Artifact):
    """Logits of the teacher and of the float student on the test rows: what the artifact is compared with."""

    KIND = "reference"


@dataclass(frozen=True)
class TeacherGraph(Artifact):
    """The float teacher as the target's runtime runs it: the baseline of every ratio."""

    KIND = "teacher-graph"

    @property
    def model(self) -> Path:
        """The model file, in the format of the target's runtime."""
        return _only(self.path, "teacher.*")


@dataclass(frozen=True)
class Graph(Artifact):
    """The float student in the target's format."""

    KIND = "graph"

    @property
    def model(self) -> Path:
        """The model file, in the format of the target's runtime."""
        return _only(self.path, "model.*")


@dataclass(frozen=True)
class Remarks(Artifact):
    """What was found of a teacher before time was spent on it; the facts hold it."""

    KIND = "remarks"


@dataclass(frozen=True)
class Ranges(Artifact):
    """Ranges of the activations: ranges.json has them by method and tensor."""

    KIND = "ranges"

    @property
    def file(self) -> Path:
        """The JSON file."""
        return self.path / "ranges.json"

    @property
    def means(self) -> Path:
        """Mean of each channel of the tensors that enter products, by tensor, as JSON."""
        return self.path / "means.json"

    @property
    def statistics(self) -> Path:
        """What every method makes its ranges of, as .npz; missing where the ranges were given."""
        return self.path / "statistics.npz"


@dataclass(frozen=True)
class Candidates(Artifact):
    """Integer forms of the student, one model file each; the facts say what each measured on dev."""

    KIND = "candidates"


@dataclass(frozen=True)
class Costs(Artifact):
    """What shapes of students cost on a device (`edgekit.search.costs`)."""

    KIND = "costs"

    @property
    def file(self) -> Path:
        """The table."""
        return self.path / "costs.json"


@dataclass(frozen=True)
class Timings(Artifact):
    """What each candidate costs on a device: timings.json, by the candidate's file."""

    KIND = "timings"


@dataclass(frozen=True)
class QuantizedGraph(Graph):
    """The int8 student in the target's format."""

    KIND = "quantized-graph"


@dataclass(frozen=True)
class Program(Artifact):
    """What a device loads: the quantized graph or, for an accelerator, what its compiler made of it."""

    KIND = "program"

    @property
    def model(self) -> Path:
        """The file that is loaded; of several that of the longest rows."""
        return self.path / str(self.facts["model"])

    @property
    def portable(self) -> Path:
        """The file that a CPU answers by as the accelerator should; `model` itself where there is none."""
        return self.path / str(self.facts["portable"])

    @property
    def by_length(self) -> dict[int, Path]:
        """The file of each input length, increasing; empty where one file serves all rows."""
        return dict(sorted((int(length), self.path / name) for length, name in self.facts["files"].items()))


@dataclass(frozen=True)
class Accuracy(Artifact):
    """The artifact's logits on the test rows, taken on a device."""

    KIND = "accuracy"


@dataclass(frozen=True)
class Latency(Artifact):
    """Timings or instruction counts of the artifact and the teacher, taken on a device in one run."""

    KIND = "latency"


@dataclass(frozen=True)
class Verdict(Artifact):
    """The gate's checks."""

    KIND = "verdict"


@dataclass(frozen=True)
class Bundle(Artifact):
    """What the app takes: model file, tokenizer, golden rows. The manifest is added when it is put in place."""

    KIND = "bundle"
