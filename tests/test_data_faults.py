"""What is wrong with labelled data is said with the place and what to do, never by a library's own error."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekit import data
from edgekit.data import Columns
from edgekit.errors import DataError, OutputError
from edgekit.tasks.text_classification import COLUMNS

AS_GIVEN = Columns(COLUMNS)
GOOD = '{"text": "one", "label": "a"}\n{"text": "two", "label": "b"}\n'


def refuse(path: Path, match: str, columns: Columns = AS_GIVEN) -> None:
    """Asserts that loading fails with a message that matches."""
    with pytest.raises(DataError, match=match):
        data.load(data.find_splits(path), columns, seed=0)


def put(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_nothing_there(tmp_path: Path) -> None:
    refuse(tmp_path / "gone", r"data .*gone does not exist; give a file with \.jsonl")


def test_an_empty_folder(tmp_path: Path) -> None:
    refuse(tmp_path, r"has no train file: it holds nothing; expected files named train, dev")


def test_a_folder_without_train(tmp_path: Path) -> None:
    put(tmp_path / "test.csv", "text,label\n")
    put(tmp_path / "traning.csv", "text,label\n")
    refuse(tmp_path, r"has no train file: it holds test\.csv, traning\.csv; expected files named train")


def test_an_unknown_format(tmp_path: Path) -> None:
    refuse(put(tmp_path / "train.xlsx", "x"), r"train\.xlsx: unknown format; expected a file with \.jsonl")


@pytest.mark.parametrize(
    ("one", "two"), [("dev.csv", "validation.csv"), ("train.csv", "train.jsonl"), ("test.csv", "test.csv.gz")]
)
def test_two_files_for_one_split(tmp_path: Path, one: str, two: str) -> None:
    put(tmp_path / "train.csv", "text,label\n")
    put(tmp_path / one, "x")
    put(tmp_path / two, "x")
    refuse(tmp_path, rf"more than one \w+ file: {one} and {two}; keep one")


def test_zero_bytes(tmp_path: Path) -> None:
    refuse(put(tmp_path / "train.csv", ""), r"train\.csv is empty \(0 bytes\)")
    put(tmp_path / "train.csv", "text,label\na,b\n")
    put(tmp_path / "dev.csv", "")
    refuse(tmp_path, r"dev\.csv is empty \(0 bytes\)")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", "\n \n"),
        ("a.json", "[]"),
        ("a.csv", "text,label\n"),
        ("a.csv", "\n"),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0)),
    ],
)
def test_no_rows(tmp_path: Path, name: str, content: str | bytes) -> None:
    refuse(put(tmp_path / name, content), rf"{name} has no rows")


def test_no_rows_in_parquet(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    schema = pyarrow.schema([("text", pyarrow.string()), ("label", pyarrow.string())])
    parquet.write_table(schema.empty_table(), tmp_path / "a.parquet")
    refuse(tmp_path / "a.parquet", r"a\.parquet has no rows")


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ('{"text": "x", "label": }', r"line 3: not JSON \(Expecting value at column 24\); expected one JSON object"),
        ('{"text": "x"', r"line 3: not JSON \(.*\)"),
        ('["x", "a"]', r'line 3: a list, not an object; expected a row such as \{"text"'),
        ("12", r"line 3: a number, not an object"),
        ("null", r"line 3: null, not an object"),
        ('{"text": "x", "text": "y", "label": "a"}', r"line 3: the key 'text' stands twice"),
        ('{"text": "x", "label": NaN}', r"line 3: NaN is not a JSON value"),
        ("[" * 100_000, r"line 3: .*recursion"),
        ('{"text": null, "label": "a"}', r"line 3: 'text' is null; expected a text"),
        ('{"label": "a"}', r"line 3: 'text' is null; expected a text"),
        ('{"text": 5, "label": "a"}', r"line 3: 'text' is a number; expected a text"),
        ('{"text": ["x"], "label": "a"}', r"line 3: 'text' is a list; expected a text"),
        ('{"text": {"a": 1}, "label": "a"}', r"line 3: 'text' is an object; expected a text"),
        ('{"text": " \\t", "label": "a"}', r"line 3: 'text' is an empty text"),
        ('{"text": "a\\u0000b", "label": "a"}', r"line 3: 'text' contains a NUL character"),
        ('{"text": "a\\ud800b", "label": "a"}', r"line 3: 'text' contains half of a surrogate pair"),
        ('{"text": "x", "label": null}', r"line 3: 'label' is null; expected a label"),
        ('{"text": "x"}', r"line 3: 'label' is null; expected a label"),
        ('{"text": "x", "label": 0.5}', r"line 3: 'label' is 0\.5; expected a label: a string, an integer"),
        ('{"text": "x", "label": 1e999}', r"line 3: 'label' is inf; expected a label"),
        ('{"text": "x", "label": ["a"]}', r"line 3: 'label' is a list; expected a label"),
        ('{"text": "x", "label": " "}', r"line 3: 'label' is empty"),
        ('{"text": "x", "label": "a\\u0000"}', r"line 3: 'label' contains a NUL character"),
    ],
)  # fmt: skip
def test_a_bad_json_line(tmp_path: Path, line: str, match: str) -> None:
    refuse(put(tmp_path / "a.jsonl", f"{GOOD}{line}\n{GOOD}"), rf"a\.jsonl, {match}")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (
            '[{"text": "x", "label": "a"},\n {"text": "y" "label": "b"}]',
            r"a\.json: not JSON \(.* at line 2, column 15\)",
        ),
        ('[\n{"text": "x", "label": "a"}, 3]', r"a\.json, row 2: a number, not an object"),
        ('[{"text": "x", "label": "a"}, {"text": "", "label": "b"}]', r"a\.json, row 2: 'text' is an empty text"),
        ('{\n "data": []\n}', r"a\.json, line 1: not JSON \(.*\); expected one JSON object a line"),
    ],
)
def test_a_bad_json_file(tmp_path: Path, content: str, match: str) -> None:
    refuse(put(tmp_path / "a.json", content), match)


def test_an_array_is_no_json_lines(tmp_path: Path) -> None:
    refuse(put(tmp_path / "a.jsonl", json.dumps([{"text": "x", "label": "a"}])), r"line 1: a list, not an object")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("text,label\none,a\ntwo,b,c\n", r"line 3: 3 fields where the header has 2 \(text, label\); put a text"),
        ("text,label\none,a,b\ntwo,b\n", r"line 2: 3 fields where the header has 2"),
        ('text,label\n"one\nmore\n",a\ntwo\n', r"line 5: 1 field where the header has 2"),
        ('text,label\none,a\n"two,b\nthree,a\n', r"line 3: a double quote opens a field and is never closed"),
        ('text,label\none,a\n"Two" she said,b\n', r"line 3: a field that starts with a double quote goes on"),
        ("text,label\none,a\n,b\n", r"line 3: 'text' is an empty text"),
        ("text,label\none,a\ntwo,\n", r"line 3: 'label' is empty"),
        ("text,label\none,a\ntwo,0.5\n", r"line 3: 'label' is 0\.5; expected a label"),
        ("text,label\none,a\nt\0wo,b\n", r"line 3: 'text' contains a NUL character"),
        ("text,label\none,a\rtwo,b\n", r"line 2: a carriage return without a line feed"),
        ("text,label\none," + "x" * 200_000 + "\n", r"line 2: a field is longer than \d+ characters"),
        ("text,text,label\none,two,a\n", r"line 1: two columns are named 'text'"),
        ('"text,label"\n"one,a"\n', r"has no column 'text' or .*, its columns are 'text,label'; name the one"),
        ("one,a\ntwo,b\n", r"has no column 'text' or .*, its columns are 'a', 'one'; name the one that holds the text"),
    ],
)
def test_a_bad_csv_file(tmp_path: Path, content: str, match: str) -> None:
    refuse(put(tmp_path / "a.csv", content), rf"a\.csv,? {match}")


@pytest.mark.parametrize(
    ("name", "separator", "match"),
    [
        ("a.csv", ";", r"'text;label'; a \.csv file has commas between its fields, not semicolons"),
        ("a.csv", "\t", r"a \.csv file has commas between its fields, not tabs"),
        ("a.csv.gz", "|", r"a \.csv file has commas between its fields, not vertical bars"),
        ("a.tsv", ",", r"'text,label'; a \.tsv file has tabs between its fields, not commas"),
    ],
)
def test_another_separator_is_named(tmp_path: Path, name: str, separator: str, match: str) -> None:
    content = f"text{separator}label\none{separator}a\ntwo{separator}b\n".encode()
    path = put(tmp_path / name, gzip.compress(content) if name.endswith("gz") else content)
    refuse(path, rf"line 1: .*{match}")


def test_a_stray_quote_in_tsv(tmp_path: Path) -> None:
    refuse(
        put(tmp_path / "a.tsv", 'text\tlabel\n"Good" film\ta\nbad\tb\n'), r"a\.tsv, line 2: .*write those in it twice"
    )


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.jsonl.gz"])
def test_bytes_that_are_not_utf8(tmp_path: Path, name: str) -> None:
    start = b"text,label\none,a\n" if "csv" in name else b'{"text": "one", "label": "a"}\n\n'
    content = start + "zürich,b\n".encode("latin-1")
    path = put(tmp_path / name, gzip.compress(content) if name.endswith("gz") else content)
    refuse(path, r"line 3: byte 2 \(0xfc\) is not UTF-8; save the file as UTF-8")


def test_other_encodings_are_named(tmp_path: Path) -> None:
    refuse(put(tmp_path / "a.csv", "text,label\none,a\n".encode("utf-16")), r"line 1: .*the file is UTF-16")
    refuse(put(tmp_path / "b.csv", gzip.compress(b"text,label\n")), r"line 1: .*let its name end in \.gz")


def test_broken_gzip(tmp_path: Path) -> None:
    whole = gzip.compress(GOOD.encode() * 100)
    refuse(put(tmp_path / "a.jsonl.gz", whole[:-12]), r"a\.jsonl\.gz is cut off or damaged")
    refuse(put(tmp_path / "b.jsonl.gz", GOOD), r"b\.jsonl\.gz is not a whole gzip file")
    refuse(
        put(tmp_path / "c.jsonl.gz", whole[:20] + b"\xff" * 30 + whole[50:]), r"c\.jsonl\.gz is (cut off|not a whole)"
    )


def test_broken_parquet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table({"text": [f"text {i}" for i in range(100)], "label": ["a", "b"] * 50})
    parquet.write_table(table, tmp_path / "whole.parquet", compression="none")
    whole = (tmp_path / "whole.parquet").read_bytes()
    for content in (b"x" * 100, whole[:-9], whole[:8] + b"\xff" * 60 + whole[68:]):
        refuse(put(tmp_path / "a.parquet", content), r"a\.parquet is not a readable Parquet file: .+")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("column", "values", "match"),
    [
        ("text", ["x", None], r"a\.parquet, row 2: 'text' is null"),
        ("text", [b"x", b"y"], r"a\.parquet, row 1: 'text' is of type bytes"),
        ("label", [1.0, float("nan")], r"a\.parquet, row 2: 'label' is nan"),
        ("label", [1, None], r"a\.parquet, row 2: 'label' is null"),
        ("label", [{"a": 1}, {"a": 2}], r"a\.parquet, row 1: 'label' is an object"),
    ],
)
def test_bad_parquet_cells(tmp_path: Path, column: str, values: list[object], match: str) -> None:
    import pyarrow
    from pyarrow import parquet

    columns = {"text": ["x", "y"], "label": ["a", "b"]} | {column: values}
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    refuse(tmp_path / "a.parquet", match)


def test_a_class_of_parquet_that_has_no_name(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    table = datasets.Dataset.from_dict({"text": ["x", "y"], "label": [0, -1]}, features=features)
    table.to_parquet(str(tmp_path / "a.parquet"))
    refuse(tmp_path / "a.parquet", r"a\.parquet, row 2: 'label' is null")


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_no_permission(tmp_path: Path, name: str) -> None:
    path = put(tmp_path / name, GOOD)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read every file")
    refuse(path, rf"{name} cannot be read: no permission")
    with pytest.raises(DataError, match="cannot be read"):
        data.data_digest(data.find_splits(path))


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.csv.gz"])
def test_no_permission_as_the_system_reports_it(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where the tests run as root, who may read every file: the system call is made to refuse."""
    from pyarrow import parquet

    path = put(tmp_path / name, GOOD)

    def refusing(opened: Callable[..., Any]) -> Callable[..., Any]:
        def open_or_refuse(file: Path, *arguments: Any, **options: Any) -> Any:
            if file == path:
                raise PermissionError(13, "Permission denied", str(path))
            return opened(file, *arguments, **options)

        return open_or_refuse

    for owner, function in ((Path, "open"), (gzip, "open"), (parquet, "read_schema")):
        monkeypatch.setattr(owner, function, refusing(getattr(owner, function)))
    refuse(path, rf"{name} cannot be read: no permission")
    if name == "a.jsonl":
        with pytest.raises(DataError, match=r"a\.jsonl cannot be read: Permission denied"):
            data.data_digest(data.find_splits(path))


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_no_place_for_the_copy(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path / name, GOOD)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(OutputError, match=rf"{name} cannot be copied to the temporary folder: .*gone.*; set TMPDIR"):
        data.read_rows(path, AS_GIVEN)


@pytest.mark.parametrize("split", ["dev", "test"])
def test_a_label_that_train_lacks(tmp_path: Path, split: str) -> None:
    put(tmp_path / "train.jsonl", GOOD)
    extra = "".join(f'{{"text": "t{i}", "label": "{label}"}}\n' for i, label in enumerate("ccd"))
    put(tmp_path / f"{split}.jsonl", GOOD + extra)
    refuse(tmp_path, rf"{split}\.jsonl holds 2 labels that train lacks.*: 'c' \(2 rows\), 'd' \(1 row\)")


def test_one_label_only(tmp_path: Path) -> None:
    refuse(
        put(tmp_path / "a.csv", "text,label\none,a\ntwo,a\n"),
        r"a\.csv has one label only \(a\); a classifier needs two",
    )


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_a_column_that_is_not_there(tmp_path: Path, name: str) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = {"title": ["x", "y"], "label": ["a", "b"]}
    if name == "a.csv":
        put(tmp_path / name, "title,label\nx,a\ny,b\n")
    elif name == "a.jsonl":
        put(tmp_path / name, GOOD.replace("text", "title"))
    else:
        parquet.write_table(pyarrow.table(rows), tmp_path / name)
    refuse(
        tmp_path / name,
        r"has no column 'text' or 'sentence' .*, its columns are 'label', 'title'; .* --set data\.text=NAME",
    )
    refuse(tmp_path / name, r"has no column 'titel', its columns are", Columns(COLUMNS, {"text": "titel"}))
    refuse(tmp_path / name, r"column 'label' cannot be the label and something", Columns(COLUMNS, {"text": "label"}))


def test_a_role_that_the_task_does_not_have() -> None:
    with pytest.raises(DataError, match=r"the task has no column 'txt'; did you mean 'text'\?"):
        Columns(COLUMNS, {"txt": "title"})


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0])
def test_a_fraction_that_is_none(tmp_path: Path, fraction: float) -> None:
    files = data.find_splits(put(tmp_path / "a.jsonl", GOOD))
    with pytest.raises(DataError, match=r"dev_fraction is .*; it must lie between 0 and 1"):
        data.load(files, AS_GIVEN, seed=0, dev_fraction=fraction)


def test_too_few_rows_to_draw_from(tmp_path: Path) -> None:
    refuse(put(tmp_path / "a.jsonl", GOOD * 5), r"a\.jsonl is too small to hold test out of it: .* give a test file")
    put(tmp_path / "train.jsonl", GOOD)
    put(tmp_path / "test.jsonl", GOOD.replace("one", "three"))
    refuse(tmp_path, r"train\.jsonl is too small to hold dev out of it")


def test_nothing_in_train_that_test_lacks(tmp_path: Path) -> None:
    rows = [json.dumps({"text": f"row {i}", "label": "ab"[i % 2]}) + "\n" for i in range(20)]
    everything = r"every row of .*train\.jsonl that is left for training is also a row of .*test\.jsonl; take those"
    put(tmp_path / "train.jsonl", "".join(rows))
    put(tmp_path / "test.jsonl", "".join(rows))
    refuse(tmp_path, everything)
    put(tmp_path / "test.jsonl", "".join(rows[:10]))
    held = {text for text, _ in data.load(data.find_splits(tmp_path), AS_GIVEN, seed=0).dev}
    put(tmp_path / "test.jsonl", "".join(row for row in rows if json.loads(row)["text"] not in held))
    refuse(tmp_path, everything)


@pytest.mark.parametrize(
    ("names", "match"),
    [
        ('["no", "yes"]', r"labels\.json names 2 labels, 0 to 1, and the data holds 2; name them all"),
        ('{"0": "no"}', r"labels\.json: expected a JSON list of label names"),
        ('["no", 1]', r"labels\.json: expected a JSON list of label names"),
        ('["no"', r"labels\.json: not readable JSON"),
    ],
)
def test_label_names_that_do_not_fit(tmp_path: Path, names: str, match: str) -> None:
    put(tmp_path / "labels.json", names)
    refuse(put(tmp_path / "a.csv", "text,label\none,0\ntwo,1\nthree,2\n"), match)


def test_rows_to_evaluate_on_that_do_not_fit(tmp_path: Path) -> None:
    put(tmp_path / "dev.jsonl", GOOD)
    with pytest.raises(DataError, match=r"holds 1 label that the model does not know; its own are a, c: 'b' \(1 row\)"):
        data.eval_rows(tmp_path, AS_GIVEN, ["a", "c"])
    put(tmp_path / "train.jsonl", GOOD)
    with pytest.raises(DataError, match=r"has no test file: it holds dev\.jsonl, train\.jsonl; expected test"):
        data.eval_rows(tmp_path, AS_GIVEN, ["a", "b"])
    with pytest.raises(DataError, match="does not exist"):
        data.eval_rows(tmp_path / "gone", AS_GIVEN, ["a", "b"])


@pytest.mark.parametrize("damage", ["dataset.json", "dev.jsonl"])
def test_a_damaged_normal_form(tmp_path: Path, damage: str) -> None:
    source = put(tmp_path / "all.csv", "text,label\n" + "".join(f"text {i},{i % 2}\n" for i in range(20)))
    data.write(data.load(data.find_splits(source), AS_GIVEN, seed=0), tmp_path)
    put(tmp_path / damage, '{"text"')
    with pytest.raises(DataError, match="holds no data set in normal form"):
        data.read(tmp_path)
    (tmp_path / damage).unlink()
    with pytest.raises(DataError, match="holds no data set in normal form"):
        data.read(tmp_path)
