"""What a labelled file must be: whole, UTF-8, regular, one text and one label a row.

The readers behind `datasets` stop at a fault without naming the line, or do not stop: pandas takes the first column for
an index where the first row is one field too long, and fills short rows up. So every line is checked here first, and a
fault is reported with its file and line.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from edgekit.errors import DataError

_BOM = "\ufeff"
_GZIP = b"\x1f\x8b"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_DECIMAL = re.compile(r"[+-]?\d+\.\d*")
_REFUSED = re.compile("[\0\ud800-\udfff]")
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_SEPARATOR_NAMES = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}


def data_format(path: Path) -> str:
    """Returns the extension that says how to read a file, without `.gz`; empty where it is none of ours."""
    name = path.name.removesuffix(".gz")
    suffix = Path(name).suffix
    if suffix in (".jsonl", ".json", *_SEPARATORS) or (suffix == ".parquet" and name == path.name):
        return suffix
    return ""


def read_lines(path: Path) -> Iterator[str]:
    """Yields the lines of a text file, compressed where it ends in `.gz`, without a byte-order mark.

    Raises:
        DataError: no permission, damaged gzip, or bytes that are not UTF-8, with the line's number.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                yield _decode(line, path, number)
    except PermissionError as error:
        raise DataError(f"{path} cannot be read: no permission") from error
    except gzip.BadGzipFile as error:
        raise DataError(f"{path} is not a whole gzip file ({error}); compress it again, or drop .gz") from error
    except (EOFError, zlib.error) as error:
        raise DataError(f"{path} is cut off or damaged ({error}); copy or compress it again") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _decode(line: bytes, path: Path, number: int) -> str:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        hint = "save the file as UTF-8"
        if number == 1 and line.startswith(_GZIP):
            hint = "the file is gzip-compressed: let its name end in .gz"
        elif number == 1 and line.startswith(_UTF16):
            hint = "the file is UTF-16: save it as UTF-8"
        raise DataError(
            f"{path}, line {number}: byte {error.start + 1} (0x{line[error.start]:02x}) is not UTF-8; {hint}"
        ) from None
    return text.removeprefix(_BOM) if number == 1 else text


def read_json(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the objects of a file of JSON lines, or of one JSON array where a `.json` file starts with `[`.

    Blank lines are skipped.

    Yields:
        Where the object stands ("file, line 3"; "file, row 3" in an array), and the object.

    Raises:
        DataError: a line that is not JSON or not an object; see also `read_lines`.
    """
    array = False
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        if data_format(path) == ".json" and line.lstrip().startswith("["):
            array = True
            break
        where = f"{path}, line {number}"
        yield where, _object(_parse_json(line, where, "expected one JSON object a line"), where)
    if array:
        rows = _parse_json("".join(read_lines(path)), str(path), "expected one JSON array or one object a line")
        for number, row in enumerate(rows, 1):
            yield f"{path}, row {number}", _object(row, f"{path}, row {number}")


def _parse_json(text: str, where: str, expected: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}" if "\n" in text.rstrip() else f"column {error.colno}"
        raise DataError(f"{where}: not JSON ({error.msg} at {place}); {expected}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: {error}; {expected}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        name = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {name!r} stands twice in one object")
    return dict(pairs)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _object(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise DataError(f'{where}: {_kind(row)}, not an object; expected a row such as {{"text": "…", "label": "…"}}')
    return row


def read_csv(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yields the records of a CSV or TSV file with RFC 4180 quoting, its header first; blank lines are skipped.

    Yields:
        Where the record starts ("file, line 3"), and as many fields as the header has.

    Raises:
        DataError: no header, a name twice in it, another separator in it, a record with more or fewer fields, a quote
            that is not closed; see also `read_lines`.
    """
    suffix = data_format(path)
    reader = csv.reader(read_lines(path), delimiter=_SEPARATORS[suffix], strict=True)
    header: list[str] = []
    start = 1
    while True:
        where = f"{path}, line {start}"
        try:
            record = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{where}: {_explain(error)}") from None
        start = reader.line_num + 1
        if record is None:
            break
        if len(record) <= 1 and not "".join(record).strip():
            continue
        if not header:
            header = record = _header(record, suffix, where)
        elif len(record) != len(header):
            fields = "1 field" if len(record) == 1 else f"{len(record)} fields"
            raise DataError(
                f"{where}: {fields} where the header has {len(header)} ({', '.join(header)}); put a text "
                "that holds the separator or a line break between double quotes"
            )
        yield where, record
    if not header:
        raise DataError(f"{path} has no rows")


def _header(record: Sequence[str], suffix: str, where: str) -> list[str]:
    separator = _SEPARATORS[suffix]
    found = [_SEPARATOR_NAMES[other] for other in _SEPARATOR_NAMES if other != separator and other in record[0]]
    if found and len(record) == 1:
        raise DataError(
            f"{where}: one column, {record[0]!r}; a {suffix} file has {_SEPARATOR_NAMES[separator]} between "
            f"its fields, not {found[0]}; save it with those that its name says"
        )
    # pandas writes a frame's index as a first column without a name.
    names = [name.strip() or f"unnamed {i}" for i, name in enumerate(record, 1)]
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{where}: two columns are named {name!r}; the first line must name each column")
    return names


def _explain(error: csv.Error) -> str:
    message = str(error)
    if message.startswith("unexpected end of data"):
        return "a double quote opens a field and is never closed; close it, or write it twice"
    if "expected after" in message:
        return (
            "a field that starts with a double quote goes on after its end; put the field between double quotes and "
            'write those in it twice ("")'
        )
    if message.startswith("field larger"):
        return f"a field is longer than {csv.field_size_limit()} characters: is a double quote not closed?"
    if message.startswith("new-line character"):
        return "a carriage return without a line feed; save the file with \\n or \\r\\n line ends"
    return message


def check_text(value: Any, column: str, where: str) -> str:
    """Returns a text as it is.

    Raises:
        DataError: no text, an empty one, or one with characters that no tokenizer or device file takes.
    """
    if not isinstance(value, str):
        raise DataError(f"{where}: {column!r} is {_kind(value)}; expected a text")
    if not value.strip():
        raise DataError(f"{where}: {column!r} is an empty text; fill it in or drop the row")
    _check_characters(value, column, where)
    return value


def check_label(value: Any, column: str, where: str, typed: bool) -> str:
    """Returns a label's name: a string without the white space around it, an integer in decimal, `True` or `False`.

    Args:
        value: of the cell.
        column: its column.
        where: its file and line.
        typed: whether the format tells numbers from strings; where it does not (CSV), `1.0` is the integer 1, as pandas
            writes it.

    Raises:
        DataError: null, empty, a fraction, or something with parts.
    """
    if not typed and isinstance(value, str) and _DECIMAL.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool | int):
        return str(value)
    if not isinstance(value, str):
        given = repr(value) if isinstance(value, float) else _kind(value)
        raise DataError(f"{where}: {column!r} is {given}; expected a label: a string, an integer or a boolean")
    if not value.strip():
        raise DataError(f"{where}: {column!r} is empty; expected a label, or drop the row")
    _check_characters(value, column, where)
    return value.strip()


def _check_characters(value: str, column: str, where: str) -> None:
    refused = _REFUSED.search(value)
    if refused:
        what = "a NUL character" if refused[0] == "\0" else "half of a surrogate pair, which is no character"
        raise DataError(f"{where}: {column!r} contains {what}; remove it")


def _kind(value: Any) -> str:
    """Names what a value is, in JSON's words."""
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value), f"of type {type(value).__name__}")
