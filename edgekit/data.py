"""Labelled data: reads what the user has, in any of five formats, into one normal form that every stage works on.

Splits that are missing are drawn from train: dev to choose by, test to report on. A draw takes whole groups of rows
with the same text, so that no text stands on both sides; it is stratified by label, and every label keeps a row in
train. The order of the draw is that of a sha256 of seed and text, not of a random generator: it depends neither on the
platform nor on a library's version, and what is drawn stays the same when the file's lines change places.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.artifact import write_json
from edgekit.data_read import (
    LABEL,
    Columns,
    Row,
    SplitFiles,
    data_digest,
    find_eval_file,
    find_splits,
    label_names_file,
    read_label_names,
    read_rows,
)
from edgekit.errors import DataError
from edgekit.source import shown

__all__ = [
    "Columns",
    "Dataset",
    "Row",
    "SplitFiles",
    "data_digest",
    "eval_rows",
    "find_splits",
    "load",
    "read",
    "read_rows",
    "train_rows",
    "write",
]

TEXT = "text"
TEST_FRACTION = 0.1
DRAWN = "held out from train"
_META = "dataset.json"

Pairs = tuple[tuple[str, str], ...]
"""Rows of (text, label)."""


@dataclass(frozen=True)
class Dataset:
    """A data set in normal form.

    Attributes:
        train: rows to learn from.
        dev: rows to choose by: epochs, students, calibration.
        test: rows to report on, and for nothing else.
        labels: in numerical order if all are integers, else in code point order.
        facts: JSON-like, the same wherever the rows are the same:
            rows: of each split.
            train_rows_per_label: min and max.
            dev_source, test_source: "file", or "held out from train".
            seed: of the draw, where there was one.
            dev_rows_also_in_train, test_rows_also_in_train: rows whose text, without the white space around it, stands
                in train too. A dev split that was held out counts as train here: it came from there.
            duplicate_train_rows: rows of train, with such a dev, whose text came before.
            conflicting_train_rows: those rows whose text stands under several labels.
            sha256: of each split's file in normal form.
    """

    train: Pairs
    dev: Pairs
    test: Pairs
    labels: tuple[str, ...]
    facts: Mapping[str, Any]

    def splits(self) -> dict[str, Pairs]:
        """Returns the rows by the names of the splits."""
        return {"train": self.train, "dev": self.dev, "test": self.test}


def load(files: SplitFiles, columns: Columns, *, seed: int, dev_fraction: float = 0.1) -> Dataset:
    """Reads all splits of a data set and draws the missing ones.

    Args:
        files: what `find_splits` found.
        columns: of the roles `text` and `label`.
        seed: of the draw.
        dev_fraction: share of train that becomes dev where there is none, between 0 and 1.

    Raises:
        DataError: a file or a row cannot be read, there is one label only, dev or test hold a label that train lacks,
            train is too small to draw from, or has no row that test does not have.
    """
    if not 0 < dev_fraction < 1:
        raise DataError(f"dev_fraction is {dev_fraction}; it must lie between 0 and 1")
    given = {split: _pairs(read_rows(file, columns)) for split, file in files.splits().items()}
    given = _name_labels(given, files.label_names)
    known = {label for _, label in given["train"]}
    if len(known) < 2:
        raise DataError(f"{files.train} has one label only ({shown(known)}); a classifier needs two or more")
    for split, rows in given.items():
        _refuse_unknown(rows, known, files.splits()[split], "train lacks; move some of the rows to train or drop them")

    train = given["train"]
    if "test" in given:
        test = given["test"]
    else:
        train, test = _hold_out(train, TEST_FRACTION, seed, "test", files.train)
    source = train
    if "dev" in given:
        dev = given["dev"]
    else:
        train, dev = _hold_out(train, dev_fraction, seed, "dev", files.train)
    if {text.strip() for text, _ in train} <= {text.strip() for text, _ in test}:
        raise DataError(
            f"every row of {files.train} that is left for training is also a row "
            f"of {files.test or 'the drawn test split'}; take those rows out of either"
        )
    splits = {"train": train, "dev": dev, "test": test}
    drawn = [split for split in splits if split not in given]
    return Dataset(train, dev, test, _sorted_labels(known), _facts(splits, source, drawn, seed))


def train_rows(path: Path, columns: Columns) -> tuple[Pairs, tuple[str, ...]]:
    """Reads the training rows alone, and their classes in order.

    Args:
        path: a file, or a folder with splits.
        columns: of the roles `text` and `label`.

    Raises:
        DataError: a file or a row cannot be read.
    """
    files = find_splits(path)
    rows = _name_labels({"train": _pairs(read_rows(files.train, columns))}, files.label_names)["train"]
    return rows, _sorted_labels({label for _, label in rows})


def eval_rows(path: Path, columns: Columns, labels: Sequence[str]) -> Pairs:
    """Reads the rows to evaluate a model on.

    Args:
        path: a file; or a folder, of which the test split is read, or the only file.
        columns: of the roles `text` and `label`.
        labels: the classes that the model knows.

    Raises:
        DataError: a file or a row cannot be read, or a label is none of the model's.
    """
    file = find_eval_file(path)
    rows = _pairs(read_rows(file, columns))
    known = set(labels)
    if not {label for _, label in rows} <= known:
        rows = _name_labels({"test": rows}, label_names_file(file))["test"]
    _refuse_unknown(rows, known, file, f"the model does not know; its own are {shown(known)}")
    return rows


def write(dataset: Dataset, folder: Path) -> None:
    """Writes a data set in normal form: `<split>.jsonl` and `dataset.json`; equal data sets give equal bytes."""
    for split, rows in dataset.splits().items():
        (folder / f"{split}.jsonl").write_bytes(_to_bytes(rows))
    write_json(folder / _META, {"labels": dataset.labels, "facts": dataset.facts})


def read(folder: Path) -> Dataset:
    """Reads what `write` wrote; needs nothing but the standard library.

    Raises:
        DataError: the folder holds no data set in normal form.
    """
    try:
        meta = json.loads((folder / _META).read_text(encoding="utf-8"))
        splits = {}
        for split in ("train", "dev", "test"):
            with (folder / f"{split}.jsonl").open(encoding="utf-8", newline="\n") as stream:
                splits[split] = _pairs([json.loads(line) for line in stream])
        return Dataset(splits["train"], splits["dev"], splits["test"], tuple(meta["labels"]), meta["facts"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} holds no data set in normal form ({error}); build it again") from error


def _pairs(rows: Sequence[Row]) -> Pairs:
    return tuple((row[TEXT], row[LABEL]) for row in rows)


def _to_bytes(rows: Pairs) -> bytes:
    lines = (json.dumps({TEXT: text, LABEL: label}, ensure_ascii=False, sort_keys=True) + "\n" for text, label in rows)
    return "".join(lines).encode("utf-8")


def _is_integer(label: str) -> bool:
    """Whether a label is an integer in the one way to write it: `01` is a name."""
    return label.removeprefix("-").isdecimal() and label.isascii() and str(int(label)) == label


def _sorted_labels(labels: set[str]) -> tuple[str, ...]:
    return tuple(sorted(labels, key=int) if all(map(_is_integer, labels)) else sorted(labels))


def _name_labels(splits: Mapping[str, Pairs], file: Path | None) -> dict[str, Pairs]:
    """Puts the names from `labels.json` in place of integer labels.

    Labels that are names already stay as they are, also where the names are numerals.
    """
    used = {label for rows in splits.values() for _, label in rows}
    if file is None or not all(map(_is_integer, used)):
        return dict(splits)
    names = read_label_names(file)
    if used <= set(names):
        return dict(splits)
    outside = sorted((label for label in used if not 0 <= int(label) < len(names)), key=int)
    if outside:
        raise DataError(
            f"{file} names {len(names)} labels, 0 to {len(names) - 1}, and the data holds {', '.join(outside[:5])}; "
            "name them all, or remove the file to keep the integers"
        )
    return {split: tuple((text, names[int(label)]) for text, label in rows) for split, rows in splits.items()}


def _refuse_unknown(rows: Pairs, known: set[str], file: Path, problem: str) -> None:
    unknown = Counter(label for _, label in rows if label not in known)
    if unknown:
        names = shown(f"{label!r} ({count} row{'s' * (count > 1)})" for label, count in unknown.items())
        raise DataError(f"{file} holds {len(unknown)} label{'s' * (len(unknown) > 1)} that {problem}: {names}")


def _hold_out(rows: Pairs, fraction: float, seed: int, split: str, file: Path) -> tuple[Pairs, Pairs]:
    """Draws a share of the rows, stratified by label, and returns (the others, the drawn), both in the file's order."""
    groups: dict[str, list[int]] = {}
    for i, (text, _) in enumerate(rows):
        groups.setdefault(text.strip(), []).append(i)
    order = sorted(groups, key=lambda text: hashlib.sha256(f"{seed}\0{split}\0{text}".encode()).digest())
    left = Counter(label for _, label in rows)
    held: set[int] = set()

    def take(group: list[int]) -> bool:
        """Takes a group of rows with one text, unless a label would have no row left."""
        labels = Counter(rows[i][1] for i in group)
        if any(left[label] <= count for label, count in labels.items()):
            return False
        left.subtract(labels)
        held.update(group)
        return True

    wanted = max(1, round(fraction * len(rows)))
    quota = _share_out(wanted, left)
    for text in order:
        label = min(rows[i][1] for i in groups[text])
        if len(groups[text]) <= quota[label] and take(groups[text]):
            quota[label] -= len(groups[text])
    # What a label could not give (all its texts too frequent, or only one) comes from the others, rare texts first.
    for text in sorted(order, key=lambda text: len(groups[text])):
        if len(held) >= wanted:
            break
        if groups[text][0] not in held:
            take(groups[text])
    if not held:
        raise DataError(
            f"{file} is too small to hold {split} out of it: a label needs two different texts or more; give a {split} "
            "file or more rows"
        )
    kept = tuple(row for i, row in enumerate(rows) if i not in held)
    return kept, tuple(rows[i] for i in sorted(held))


def _share_out(wanted: int, counts: Mapping[str, int]) -> dict[str, int]:
    """Splits a number among labels in proportion to their rows, by largest remainder."""
    total = sum(counts.values())
    shares = {label: divmod(wanted * count, total) for label, count in counts.items()}
    quota = {label: whole for label, (whole, _) in shares.items()}
    by_remainder = sorted(shares, key=lambda label: (-shares[label][1], label))
    for label in by_remainder[: wanted - sum(quota.values())]:
        quota[label] += 1
    return quota


def _facts(splits: Mapping[str, Pairs], source: Pairs, drawn: Sequence[str], seed: int) -> dict[str, Any]:
    """Counts what a report says about the data.

    Args:
        splits: the final ones.
        source: train before dev was drawn from it.
        drawn: the splits that were held out.
        seed: of the draw.
    """
    labels_of: dict[str, set[str]] = {}
    for text, label in source:
        labels_of.setdefault(text.strip(), set()).add(label)
    per_label = Counter(label for _, label in splits["train"]).values()
    facts: dict[str, Any] = {
        "rows": {split: len(rows) for split, rows in splits.items()},
        "train_rows_per_label": {"min": min(per_label), "max": max(per_label)},
        "duplicate_train_rows": len(source) - len(labels_of),
        "conflicting_train_rows": sum(len(labels_of[text.strip()]) > 1 for text, _ in source),
        "sha256": {split: hashlib.sha256(_to_bytes(rows)).hexdigest() for split, rows in splits.items()},
    }
    for split in ("dev", "test"):
        again = 0 if split in drawn else sum(text.strip() in labels_of for text, _ in splits[split])
        facts[f"{split}_rows_also_in_train"] = again
        facts[f"{split}_source"] = DRAWN if split in drawn else "file"
    return facts | ({"seed": seed} if drawn else {})
