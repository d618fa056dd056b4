"""Labelled data: the formats, the normal form, the splits that are drawn, and what is counted."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from edgekit import data
from edgekit.data import Columns, Dataset
from edgekit.tasks.text_classification import COLUMNS

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
AS_GIVEN = Columns(COLUMNS)

# Texts that a reader may take for something else: null, numbers, dates, JSON, quotes, separators, several lines.
ODD_TEXTS = [
    "NA", "null", "None", "nan", "1", "1.0", "true", "2020-01-01", "2020-01-01 10:00:00", '{"a": 1}', '"quoted"',
    'say "x"', "a,b", "a\tb", "two\nlines", "two\r\nlines", "  spaces  ", "zürich 😀", "line\u2028separator",
    "#comment", "'", "\\n",
]  # fmt: skip
ODD_ROWS = [(text, ("None", "NA", "ok")[i % 3]) for i, text in enumerate(ODD_TEXTS)]


def write_rows(path: Path, rows: list[tuple[Any, Any]], names: tuple[str, str] = ("text", "label")) -> Path:
    """Writes rows in the format that the file's name says."""
    objects = [dict(zip(names, row, strict=True)) for row in rows]
    plain = path.name.removesuffix(".gz")
    path.parent.mkdir(parents=True, exist_ok=True)
    if plain.endswith(".parquet"):
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(objects), path)
        return path
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8", newline="") as stream:
        if plain.endswith(".jsonl"):
            stream.writelines(json.dumps(row) + "\n" for row in objects)
        elif plain.endswith(".json"):
            json.dump(objects, stream, indent=1)
        else:
            writer = csv.writer(stream, delimiter="," if plain.endswith(".csv") else "\t")
            writer.writerows([names, *rows])
    return path


def numbered(labels: str, count: int, start: int = 0) -> list[tuple[str, str]]:
    """Makes rows with different texts, `count` of each one-letter label."""
    return [(f"{label} number {i}", label) for i in range(start, start + count) for label in labels]


def load(path: Path, seed: int = 0, columns: Columns = AS_GIVEN, dev_fraction: float = 0.1) -> Dataset:
    return data.load(data.find_splits(path), columns, seed=seed, dev_fraction=dev_fraction)


def texts(rows: data.Pairs) -> set[str]:
    return {text.strip() for text, _ in rows}


EXTENSIONS = ["jsonl", "jsonl.gz", "json", "json.gz", "csv", "csv.gz", "tsv", "tsv.gz", "parquet"]


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_every_format_gives_the_same_rows(tmp_path: Path, extension: str) -> None:
    path = write_rows(tmp_path / f"rows.{extension}", ODD_ROWS)
    assert [(r["text"], r["label"]) for r in data.read_rows(path, AS_GIVEN)] == ODD_ROWS


@pytest.mark.parametrize("extension", EXTENSIONS[1:])
def test_every_format_gives_the_same_data_set(tmp_path: Path, extension: str) -> None:
    for ending in ("jsonl", extension):
        write_rows(tmp_path / ending / f"train.{ending}", numbered("abc", 20))
        write_rows(tmp_path / ending / f"test.{ending}", numbered("abc", 5, 18))
    assert load(tmp_path / "jsonl") == load(tmp_path / extension)


@pytest.mark.parametrize("name", ["validation", "valid", "val", "dev"])
def test_splits_are_found_by_their_names(tmp_path: Path, name: str) -> None:
    for split in ("train", name, "test"):
        write_rows(tmp_path / f"{split}.csv", numbered("ab", 2))
    for other in ("SOURCE.txt", "labels.json", "trains.csv", "test.csv.bak", "test.parquet.gz"):
        (tmp_path / other).write_text("")
    (tmp_path / "train.jsonl").mkdir()
    found = data.find_splits(tmp_path)
    assert {split: file.name for split, file in found.splits().items()} == {
        "train": "train.csv", "dev": f"{name}.csv", "test": "test.csv"
    }  # fmt: skip
    assert found.label_names == tmp_path / "labels.json"


def test_a_single_file_is_train(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "reviews.csv", numbered("ab", 2))
    assert data.find_splits(path).splits() == {"train": path}


def test_given_splits_keep_their_rows_and_order(tmp_path: Path) -> None:
    train, dev, test = numbered("ba", 3), numbered("ab", 1, 7), numbered("b", 2, 9)
    for split, rows in (("train", train), ("dev", dev), ("test", test)):
        write_rows(tmp_path / f"{split}.jsonl", rows)
    loaded = load(tmp_path)
    assert (loaded.train, loaded.dev, loaded.test) == (tuple(train), tuple(dev), tuple(test))
    assert loaded.labels == ("a", "b")
    assert (loaded.facts["dev_source"], loaded.facts["test_source"]) == ("file", "file")
    assert "seed" not in loaded.facts


def test_dev_is_drawn_by_label(tmp_path: Path) -> None:
    rows = numbered("a", 100) + numbered("b", 50) + numbered("c", 10)
    write_rows(tmp_path / "train.jsonl", rows)
    write_rows(tmp_path / "test.jsonl", numbered("a", 3, 200))
    loaded = load(tmp_path)
    assert Counter(label for _, label in loaded.dev) == {"a": 10, "b": 5, "c": 1}
    assert sorted(loaded.train + loaded.dev) == sorted(rows)
    assert loaded.train == tuple(row for row in rows if row not in loaded.dev)
    assert loaded.facts["dev_source"] == "held out from train"
    assert loaded.facts["rows"] == {"train": 144, "dev": 16, "test": 3}
    assert loaded.facts["train_rows_per_label"] == {"min": 9, "max": 90}


def test_the_draw_depends_on_the_seed_and_not_on_the_order(tmp_path: Path) -> None:
    rows = numbered("abc", 30)
    forwards, backwards = write_rows(tmp_path / "f.csv", rows), write_rows(tmp_path / "b.csv", rows[::-1])
    assert load(forwards).test == load(backwards).test[::-1]
    assert load(forwards).dev == load(backwards).dev[::-1]
    assert load(forwards, seed=1).test != load(forwards, seed=2).test


def test_the_draw_is_the_same_everywhere(tmp_path: Path) -> None:
    """The rows drawn from a fixed file, written down: another platform or hash seed must not change them."""
    loaded = load(write_rows(tmp_path / "all.csv", numbered("ab", 10)))
    assert [text for text, _ in loaded.test] == ["b number 4", "a number 7"]
    assert [text for text, _ in loaded.dev] == ["a number 4", "b number 9"]


def test_a_single_file_gives_three_disjoint_splits(tmp_path: Path) -> None:
    rows = numbered("abc", 40)
    loaded = load(
        write_rows(tmp_path / "all.tsv", rows + rows[:30] + [(f" {text} ", label) for text, label in rows[:9]])
    )
    assert not texts(loaded.train) & texts(loaded.dev)
    assert not texts(loaded.train) & texts(loaded.test)
    assert not texts(loaded.dev) & texts(loaded.test)
    assert sum(loaded.facts["rows"].values()) == 159
    assert loaded.facts["test_source"] == loaded.facts["dev_source"] == "held out from train"
    assert loaded.facts["test_rows_also_in_train"] == loaded.facts["dev_rows_also_in_train"] == 0
    assert loaded.facts["seed"] == 0
    assert 14 <= len(loaded.test) <= 17


def test_texts_that_all_stand_twice_can_be_drawn(tmp_path: Path) -> None:
    loaded = load(write_rows(tmp_path / "all.csv", numbered("ab", 5) * 2))
    assert len(loaded.test) == len(loaded.dev) == 2
    assert len(texts(loaded.test)) == 1


@pytest.mark.parametrize("seed", range(8))
def test_every_label_keeps_a_row_in_train(tmp_path: Path, seed: int) -> None:
    rows = [("only c", "c"), ("both", "d"), ("both", "a"), *numbered("ab", 12), ("only e", "e"), ("only e", "e")]
    loaded = load(write_rows(tmp_path / "all.csv", rows), seed=seed, dev_fraction=0.5)
    assert {label for _, label in loaded.train} == set("abcde") == set(loaded.labels)
    assert loaded.dev
    assert loaded.test


def test_what_is_counted(tmp_path: Path) -> None:
    train = [("one", "a"), ("one", "a"), (" one ", "b"), ("two", "b"), ("three", "a"), ("three", "a")]
    write_rows(tmp_path / "train.jsonl", train)
    write_rows(tmp_path / "dev.jsonl", [("two ", "a"), ("four", "b")])
    write_rows(tmp_path / "test.jsonl", [("one", "a"), ("one", "b"), ("five", "a")])
    facts = load(tmp_path).facts
    assert facts["dev_rows_also_in_train"] == 1
    assert facts["test_rows_also_in_train"] == 2
    assert facts["duplicate_train_rows"] == 3
    assert facts["conflicting_train_rows"] == 3


def test_rows_of_a_drawn_dev_count_as_train(tmp_path: Path) -> None:
    rows = numbered("ab", 10)
    write_rows(tmp_path / "train.jsonl", rows)
    write_rows(tmp_path / "test.jsonl", rows[:-4])
    assert load(tmp_path).facts["test_rows_also_in_train"] == 16


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([2, 10, 1], ("1", "2", "10")),
        ([1.0, 2.0, 10.0], ("1", "2", "10")),
        ([-1, 0, 1], ("-1", "0", "1")),
        ([True, False, True], ("False", "True")),
        (["1", 2, 3.0], ("1", "2", "3")),
        (["01", "1", "2"], ("01", "1", "2")),
        (["b ", "a", "10"], ("10", "a", "b")),
        (["None", "null", "2020-01-01"], ("2020-01-01", "None", "null")),
        ([2**70, 1, 2], ("1", "2", str(2**70))),
    ],
)
def test_labels_become_names(tmp_path: Path, labels: list[Any], expected: tuple[str, ...]) -> None:
    rows = [(f"text {i}", labels[i % 3]) for i in range(30)]
    assert load(write_rows(tmp_path / "all.jsonl", rows)).labels == expected


def test_integers_that_pandas_wrote_as_floats(tmp_path: Path) -> None:
    path = tmp_path / "all.csv"
    path.write_text(",text,label\n" + "".join(f"{i},text {i},{i % 3}.0\n" for i in range(30)))
    assert load(path).labels == ("0", "1", "2")


@pytest.mark.parametrize("extension", ["jsonl", "csv", "parquet"])
def test_label_names_beside_the_data(tmp_path: Path, extension: str) -> None:
    path = write_rows(tmp_path / f"all.{extension}", [(f"text {i}", i % 2) for i in range(30)])
    (tmp_path / "labels.json").write_text('["negative", "positive"]')
    loaded = load(path)
    assert loaded.labels == ("negative", "positive")
    assert ("text 1", "positive") in loaded.train + loaded.dev + loaded.test


@pytest.mark.parametrize(("labels", "names"), [("ab", '["a", "b", "c"]'), ("12", '["1", "2"]'), ("ab", "{}")])
def test_label_names_leave_names_alone(tmp_path: Path, labels: str, names: str) -> None:
    path = write_rows(tmp_path / "all.csv", numbered(labels, 10))
    (tmp_path / "labels.json").write_text(names)
    assert load(path).labels == tuple(labels)


def test_class_names_inside_parquet(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    rows = {"text": [f"text {i}" for i in range(20)], "label": [i % 2 for i in range(20)]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "all.parquet"))
    assert load(tmp_path / "all.parquet").labels == ("no", "yes")


def test_parquet_of_categories(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    columns = {"text": pyarrow.array(["one", "two"], pyarrow.large_string())}
    columns["label"] = pyarrow.array(["x", "y"]).dictionary_encode()
    parquet.write_table(pyarrow.table(columns), tmp_path / "all.parquet")
    assert [row["label"] for row in data.read_rows(tmp_path / "all.parquet", AS_GIVEN)] == ["x", "y"]


def test_byte_order_mark_and_carriage_returns(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbftext,label\r\none,a\r\n\r\ntwo,b\r\n")
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text":"one","label":"a"}\r\n\r\n  \n{"text":"two","label":"b"}')
    expected = [{"text": "one", "label": "a"}, {"text": "two", "label": "b"}]
    assert data.read_rows(tmp_path / "a.csv", AS_GIVEN) == data.read_rows(tmp_path / "a.jsonl", AS_GIVEN) == expected


@pytest.mark.parametrize("extension", ["jsonl", "csv", "parquet"])
def test_columns_by_preference_and_by_choice(tmp_path: Path, extension: str) -> None:
    path = write_rows(tmp_path / f"a.{extension}", [("one", "a")], ("utterance", "intent"))
    assert data.read_rows(path, AS_GIVEN) == [{"text": "one", "label": "a"}]
    swapped = Columns(COLUMNS, {"text": "intent", "label": "utterance"})
    assert data.read_rows(path, swapped) == [{"text": "a", "label": "one"}]


def test_other_columns_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"text": "one", "label": 1, "x": [1, {"y": null}]}\n{"x": 1e999, "intent": 3, "label": "b", "text": "two"}\n'
        '{"text": "three", "label": true, "id": 123456789012345678901234567890, "x": "\\ud800"}\n'
    )
    assert [row["label"] for row in data.read_rows(tmp_path / "a.jsonl", AS_GIVEN)] == ["1", "b", "True"]


def test_names_that_are_patterns_are_names(tmp_path: Path) -> None:
    for extension in ("jsonl", "csv", "parquet"):
        path = write_rows(tmp_path / "data[1]*" / f"a?{extension}.{extension}", [("one", "a")])
        assert data.read_rows(path, AS_GIVEN) == [{"text": "one", "label": "a"}]


@pytest.mark.parametrize("extension", ["jsonl", "csv", "parquet"])
def test_reading_leaves_nothing_behind(
    tmp_path: Path, extension: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import datasets

    def refuse(*_: object) -> None:
        raise AssertionError("the network was used")

    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    path = write_rows(tmp_path / f"a.{extension}", numbered("ab", 10))
    before = datasets.are_progress_bars_disabled(), datasets.utils.logging.get_verbosity()
    load(path)
    assert (datasets.are_progress_bars_disabled(), datasets.utils.logging.get_verbosity()) == before
    assert list(scratch.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_the_normal_form_comes_back(tmp_path: Path) -> None:
    loaded = load(write_rows(tmp_path / "all.jsonl", [*ODD_ROWS, *numbered("xy", 20)]))
    folder = tmp_path / "out"
    folder.mkdir()
    data.write(loaded, folder)
    assert data.read(folder) == loaded
    assert sorted(p.name for p in folder.iterdir()) == ["dataset.json", "dev.jsonl", "test.jsonl", "train.jsonl"]
    for split, digest in loaded.facts["sha256"].items():
        content = (folder / f"{split}.jsonl").read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest
    first = (folder / "train.jsonl").read_bytes().splitlines()[0].decode()
    text, label = loaded.train[0]
    assert first == f'{{"label": "{label}", "text": "{text}"}}'
    assert "zürich 😀".encode() in b"".join(p.read_bytes() for p in folder.glob("*.jsonl"))


def test_the_normal_form_is_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "all.csv", numbered("abc", 20))
    program = (
        "import sys\nfrom pathlib import Path\nfrom edgekit import data\n"
        "columns = data.Columns({'text': ('text',), 'label': ('label',)})\n"
        "files = data.find_splits(Path(sys.argv[1]))\n"
        "data.write(data.load(files, columns, seed=3), Path(sys.argv[2]))\n"
    )
    contents = []
    for hash_seed in ("1", "2"):
        folder = tmp_path / hash_seed
        folder.mkdir()
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        subprocess.run([sys.executable, "-c", program, path, folder], check=True, env=environment)
        contents.append({p.name: p.read_bytes() for p in folder.iterdir()})
    assert contents[0] == contents[1]
    assert len(contents[0]) == 4


def test_importing_is_cheap_and_reading_back_needs_no_library(tmp_path: Path) -> None:
    data.write(load(write_rows(tmp_path / "all.csv", numbered("ab", 10))), tmp_path)
    program = (
        "import sys\nfrom pathlib import Path\nfrom edgekit import data\ndata.read(Path(sys.argv[1]))\n"
        "print([m for m in ('datasets', 'pyarrow', 'pandas', 'numpy', 'torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_the_digest_follows_contents_and_formats(tmp_path: Path) -> None:
    def digest() -> str:
        return data.data_digest(data.find_splits(tmp_path))

    path = write_rows(tmp_path / "train.csv", numbered("ab", 3))
    seen = [digest()]
    path.rename(tmp_path / "train.tsv")
    seen.append(digest())
    (tmp_path / "test.tsv").write_bytes((tmp_path / "train.tsv").read_bytes())
    seen.append(digest())
    (tmp_path / "test.tsv").rename(tmp_path / "dev.tsv")
    seen.append(digest())
    (tmp_path / "dev.tsv").write_text("text,label\n")
    seen.append(digest())
    (tmp_path / "labels.json").write_text("[]")
    seen.append(digest())
    assert len(set(seen)) == 6
    (tmp_path / "README.md").write_text("ignored")
    (tmp_path / "dev.tsv").rename(tmp_path / "validation.tsv")
    assert digest() == seen[-1]


def test_rows_to_evaluate_on(tmp_path: Path) -> None:
    rows = numbered("ab", 2)
    write_rows(tmp_path / "only" / "reviews.csv", rows)
    write_rows(tmp_path / "several" / "train.csv", rows)
    write_rows(tmp_path / "several" / "test.csv", rows[:1])
    assert data.eval_rows(tmp_path / "only", AS_GIVEN, ["a", "b", "c"]) == tuple(rows)
    assert data.eval_rows(tmp_path / "several", AS_GIVEN, ["a", "b"]) == tuple(rows[:1])
    assert data.eval_rows(tmp_path / "several" / "train.csv", AS_GIVEN, ["a", "b"]) == tuple(rows)


def test_integer_labels_to_evaluate_on(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "test.jsonl", [("one", 0), ("two", 1)])
    assert data.eval_rows(path, AS_GIVEN, ["0", "1"]) == (("one", "0"), ("two", "1"))
    (tmp_path / "labels.json").write_text('["no", "yes"]')
    assert data.eval_rows(path, AS_GIVEN, ["0", "1"]) == (("one", "0"), ("two", "1"))
    assert data.eval_rows(path, AS_GIVEN, ["no", "yes"]) == (("one", "no"), ("two", "yes"))


@pytest.mark.skipif(not (SHARED / "banking77").is_dir(), reason="banking77 is not beside the repository")
def test_banking77_is_what_its_source_says() -> None:
    source = (SHARED / "banking77" / "SOURCE.txt").read_text(encoding="utf-8")
    loaded = load(SHARED / "banking77")
    facts = loaded.facts
    assert 'rows: {"train": 10003, "test": 3080}' in source
    assert "rows of test that are also in train: 7" in source
    assert facts["rows"] == {"train": 9003, "dev": 1000, "test": 3080}
    assert facts["test_rows_also_in_train"] == 7
    assert list(loaded.labels) == sorted(json.loads((SHARED / "banking77" / "labels.json").read_text(encoding="utf-8")))
    assert len(loaded.labels) == 77
    assert facts["dev_source"] == "held out from train"
    assert not texts(loaded.train) & texts(loaded.dev)
    shares = Counter(label for _, label in loaded.dev)
    for label, count in Counter(label for _, label in loaded.train + loaded.dev).items():
        assert abs(shares[label] - count / 10) < 1.5, label
