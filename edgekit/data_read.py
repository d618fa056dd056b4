"""Finds the files of a labelled data set and reads their rows through `datasets`.

What `datasets` (5.2) infers is not what a file says: from JSON, strings that look like dates become timestamps, and in
a column of mixed types (its `Json` feature) the strings "null" and "1" become null and 1; from CSV, "NA" and "None"
become null. So each file is checked line by line (`edgekit.data_check`) and what was checked goes into a plain
copy of strings only: one CSV dialect, or JSON lines whose cells hold a value's JSON text. That copy is what `datasets`
reads, with nothing left to infer. The copy also keeps the user's paths, in which `datasets` expands `[`, `*` and `?`,
and columns that nobody asked for, out of it. Parquet carries its types and is read as it is.
"""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.artifact import file_digest
from edgekit.data_check import check_label, check_text, data_format, read_csv, read_json
from edgekit.errors import DataError, OutputError, suggestion
from edgekit.source import shown

LABEL = "label"  # the role that is a class; every other role is a text
SPLIT_NAMES = {"train": ("train",), "dev": ("dev", "validation", "valid", "val"), "test": ("test",)}
EXTENSIONS = ".jsonl, .json, .csv or .tsv (also with .gz), or .parquet"
LABEL_NAMES = "labels.json"

Row = dict[str, str]
"""One row: role → value."""


@dataclass(frozen=True)
class SplitFiles:
    """The files of a data set.

    Attributes:
        path: what the user gave: the folder, or the only file.
        train: rows to learn from, and to draw the missing splits from.
        dev: rows to choose by.
        test: rows to report on.
        label_names: `labels.json` beside them: names of integer labels.
    """

    path: Path
    train: Path
    dev: Path | None = None
    test: Path | None = None
    label_names: Path | None = None

    def splits(self) -> dict[str, Path]:
        """Returns the files by split, without those that are missing."""
        files = {"train": self.train, "dev": self.dev, "test": self.test}
        return {split: file for split, file in files.items() if file is not None}


@dataclass(frozen=True)
class Columns:
    """Which column holds what.

    Attributes:
        candidates: role → column names in order of preference, as a task gives them.
        chosen: role → column name that the user gave instead (`--set data.ROLE=NAME`).
    """

    candidates: Mapping[str, Sequence[str]]
    chosen: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for role in self.chosen:
            if role not in self.candidates:
                raise DataError(f"the task has no column {role!r}{suggestion(role, self.candidates)}")

    def names(self) -> set[str]:
        """Returns every column name that may be asked for."""
        return {name for role in self.candidates for name in self._options(role)}

    def pick(self, present: Sequence[str], file: Path) -> dict[str, str]:
        """Returns the column of each role.

        Args:
            present: the columns of the file.
            file: for messages.

        Raises:
            DataError: a role has no column, or two roles have the same one.
        """
        picked: dict[str, str] = {}
        for role in self.candidates:
            found = [name for name in self._options(role) if name in present]
            if not found:
                wanted = " or ".join(map(repr, self._options(role)))
                there = ", ".join(map(repr, sorted(present))) or "none"
                raise DataError(
                    f"{file} has no column {wanted}, its columns are {there}; "
                    f"name the one that holds the {role} with --set data.{role}=NAME"
                )
            if found[0] in picked.values():
                raise DataError(f"{file}: column {found[0]!r} cannot be the {role} and something else at once")
            picked[role] = found[0]
        return picked

    def _options(self, role: str) -> Sequence[str]:
        return (self.chosen[role],) if role in self.chosen else self.candidates[role]


def find_splits(path: Path) -> SplitFiles:
    """Finds the files of a data set without reading them.

    Args:
        path: a file, which is then all there is; or a folder with files named train, dev (validation, valid, val) and
            test. Other files in it are ignored.

    Raises:
        DataError: nothing there, no train file, two files for one split, an empty file, or an unknown format.
    """
    found = _named_files(path)
    if "train" not in found:
        raise DataError(
            f"{path} has no train file: it holds {_contents(path)}; expected files named train, dev (validation, valid "
            f"or val) and test, with {EXTENSIONS}; train is required"
        )
    return SplitFiles(path, found["train"], found.get("dev"), found.get("test"), label_names_file(path))


def find_eval_file(path: Path) -> Path:
    """Returns the file to evaluate on: the file itself, a folder's test split, or the only data file of a folder.

    Raises:
        DataError: nothing there, or several files of which none is the test split.
    """
    found = _named_files(path)
    if path.is_file():
        return found["train"]
    if "test" in found:
        return found["test"]
    files = [file for file in sorted(path.iterdir()) if file.is_file() and _is_data(file)]
    if len(files) != 1:
        raise DataError(f"{path} has no test file: it holds {_contents(path)}; expected test with {EXTENSIONS}")
    return _not_empty(files[0])


def data_digest(files: SplitFiles) -> str:
    """Returns one sha256 over the names of the splits, their formats and the files' bytes."""
    digest = hashlib.sha256()
    for split, file in files.splits().items():
        # The format counts: the same bytes mean other rows as CSV than as TSV.
        digest.update(f"{split}{data_format(file)}{file.suffix == '.gz'}\0{_digest(file)}\n".encode())
    if files.label_names is not None:
        digest.update(f"{LABEL_NAMES}\0{_digest(files.label_names)}\n".encode())
    return digest.hexdigest()


def read_rows(file: Path, columns: Columns) -> list[Row]:
    """Reads a file's rows in order.

    Args:
        file: JSON lines, a JSON array, CSV, TSV or Parquet, by its extension.
        columns: which of its columns to read.

    Returns:
        At least one row; texts as they are, labels as names (`check_label`).

    Raises:
        DataError: the file, a column or a row is not as it should be; says where.
        OutputError: no space, or no permission, in the folder for temporary files.
    """
    read = {".csv": _read_csv, ".tsv": _read_csv, ".parquet": _read_parquet}.get(data_format(file), _read_json)
    try:
        with tempfile.TemporaryDirectory(prefix="edgekit-data-") as scratch:
            picked, places, cells = read(file, columns, Path(scratch))
    except OSError as error:  # of the copy; those of the file are explained where it is read
        raise OutputError(f"{file} cannot be copied to the temporary folder: {error}; set TMPDIR to another") from error
    if not places:
        raise DataError(f"{file} has no rows")
    lengths = {len(values) for values in cells.values()}
    if lengths != {len(places)}:
        raise DataError(f"{file}: `datasets` read {sorted(lengths)} rows where the file holds {len(places)}")
    typed = read is not _read_csv
    rows: list[Row] = []
    for place, *values in zip(places, *(cells[column] for column in picked.values()), strict=True):
        row = {}
        for (role, column), value in zip(picked.items(), values, strict=True):
            is_label = role == LABEL
            row[role] = check_label(value, column, place, typed) if is_label else check_text(value, column, place)
        rows.append(row)
    return rows


def label_names_file(path: Path) -> Path | None:
    """Returns the `labels.json` in a folder, or beside a file, if there is one."""
    names = (path if path.is_dir() else path.parent) / LABEL_NAMES
    return names if names.is_file() else None


def read_label_names(path: Path) -> list[str]:
    """Reads `labels.json`: the name of each integer label.

    Raises:
        DataError: not a JSON list of strings.
    """
    try:
        names = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable JSON ({error}); expected a list of label names") from error
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        raise DataError(f"{path}: expected a JSON list of label names, in the order of the integer labels")
    repeated = [name for i, name in enumerate(names) if name.strip() in map(str.strip, names[:i])]
    if repeated:
        raise DataError(f"{path}: {repeated[0]!r} stands twice, so that two labels would become one")
    return [name.strip() for name in names]


_Table = tuple[dict[str, str], list[str], dict[str, list[Any]]]
"""Role → column; where each row stands; column → values."""


def _read_json(file: Path, columns: Columns, scratch: Path) -> _Table:
    from datasets import Dataset, Features, Value

    wanted, present, places = sorted(columns.names()), set[str](), list[str]()
    copy = scratch / "rows.jsonl"
    with copy.open("w", encoding="utf-8", newline="\n") as stream:
        for place, row in read_json(file):
            places.append(place)
            present.update(row)
            # A cell is the JSON text of its value: `datasets` sees a string that looks like nothing else.
            cells = {name: json.dumps(row[name]) for name in wanted if name in row}
            stream.write(json.dumps(cells) + "\n")
    if not places:
        return {}, [], {}
    picked = columns.pick(sorted(present), file)
    with _quiet():
        table = Dataset.from_json(
            str(copy),
            cache_dir=str(scratch / "cache"),
            keep_in_memory=True,
            features=Features({name: Value("string") for name in wanted if name in present}),
            parse_agent_traces=False,
        )
    texts = table.select_columns(list(picked.values()))[:]
    return picked, places, {n: [None if t is None else json.loads(t) for t in texts[n]] for n in picked.values()}


def _read_csv(file: Path, columns: Columns, scratch: Path) -> _Table:
    from datasets import Dataset, Features, Value

    records = read_csv(file)
    _, header = next(records)
    picked = columns.pick(header, file)
    indices = [header.index(name) for name in picked.values()]
    places: list[str] = []
    copy = scratch / "rows.csv"
    with copy.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerow(picked.values())
        for place, record in records:
            places.append(place)
            writer.writerow([record[i] for i in indices])
    if not places:
        return {}, [], {}
    with _quiet():
        table = Dataset.from_csv(
            str(copy),
            cache_dir=str(scratch / "cache"),
            keep_in_memory=True,
            features=Features({name: Value("string") for name in picked.values()}),
            keep_default_na=False,
            na_filter=False,
        )
    return picked, places, table[:]


def _read_parquet(file: Path, columns: Columns, scratch: Path) -> _Table:
    from datasets import ClassLabel, Dataset
    from pyarrow import parquet

    with _explained(file):
        present, count = parquet.read_schema(file).names, parquet.read_metadata(file).num_rows
    if count == 0:  # which `datasets` does not read
        return {}, [], {}
    picked = columns.pick(present, file)
    copy = scratch / "rows.parquet"
    shutil.copyfile(file, copy)
    with _explained(file), _quiet():
        table = Dataset.from_parquet(
            str(copy), cache_dir=str(scratch / "cache"), keep_in_memory=True, columns=list(picked.values())
        )
    cells = dict(table[:])
    for name, kind in table.features.items():
        if isinstance(kind, ClassLabel):  # `datasets` writes the names of its classes into the file
            known = dict(enumerate(kind.names))
            cells[name] = [known.get(value) for value in cells[name]]
    return picked, [f"{file}, row {i}" for i in range(1, count + 1)], cells


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    """Turns what goes wrong in reading Parquet into a `DataError`."""
    import pyarrow
    from datasets.exceptions import DatasetsError

    try:
        yield
    except PermissionError as error:
        raise DataError(f"{file} cannot be read: no permission") from error
    except (DatasetsError, pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{file} is not a readable Parquet file: {str(error.__cause__ or error).strip()}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps `datasets` from drawing progress bars and logging what it raises anyway; restores its settings."""
    import datasets
    from datasets.utils import logging

    level, bars = logging.get_verbosity(), not datasets.are_progress_bars_disabled()
    # Where the environment decides on the bars, `datasets` only warns that it does.
    bars = bars and datasets.config.HF_DATASETS_DISABLE_PROGRESS_BARS is None
    logging.set_verbosity(logging.CRITICAL)
    if bars:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            datasets.enable_progress_bars()


def _named_files(path: Path) -> dict[str, Path]:
    """Returns the files of a folder by split; a single file is all there is and counts as train."""
    try:
        if path.is_file():
            if not _is_data(path):
                raise DataError(f"{path}: unknown format; expected a file with {EXTENSIONS}, or a folder of such files")
            return {"train": _not_empty(path)}
        if not path.is_dir():
            raise DataError(f"data {path} does not exist; give a file with {EXTENSIONS}, or a folder of such files")
        entries = [entry for entry in sorted(path.iterdir()) if entry.is_file() and _is_data(entry)]
    except PermissionError as error:
        raise DataError(f"{path} cannot be read: no permission") from error
    found: dict[str, Path] = {}
    for split, names in SPLIT_NAMES.items():
        files = [entry for entry in entries if entry.name.removesuffix(".gz") in _spellings(names, entry)]
        if len(files) > 1:
            both = " and ".join(file.name for file in files)
            raise DataError(f"{path} holds more than one {split} file: {both}; keep one of them")
        if files:
            found[split] = _not_empty(files[0])
    return found


def _spellings(names: Sequence[str], entry: Path) -> list[str]:
    return [name + data_format(entry) for name in names]


def _is_data(file: Path) -> bool:
    return bool(data_format(file)) and file.name != LABEL_NAMES


def _not_empty(file: Path) -> Path:
    if file.stat().st_size == 0:
        raise DataError(f"{file} is empty (0 bytes); expected one row a text")
    return file


def _contents(folder: Path) -> str:
    return shown(entry.name for entry in folder.iterdir()) or "nothing"


def _digest(file: Path) -> str:
    try:
        return file_digest(file)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
