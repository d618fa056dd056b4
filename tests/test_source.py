"""Locations: paths, and files inside installed packages."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgekit.errors import InputError
from edgekit.source import resolve

POISON = "raise SystemExit('the package was imported')\n"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package `corpus_box` with a data folder, which must not be imported."""
    root = tmp_path / "site" / "corpus_box"
    (root / "reviews").mkdir(parents=True)
    (root / "__init__.py").write_text(POISON)
    (root / "reviews" / "train.csv").write_text("text,label\n")
    (root.parent / "lone_module.py").write_text(POISON)
    monkeypatch.syspath_prepend(str(root.parent))
    return root


def test_a_path_is_itself(tmp_path: Path) -> None:
    assert resolve(str(tmp_path), "data") == tmp_path


def test_the_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "data").mkdir()
    assert resolve("~/data", "data") == tmp_path / "data"


def test_a_missing_path_names_what_is_meant(tmp_path: Path) -> None:
    (tmp_path / "reviews").mkdir()
    with pytest.raises(InputError, match=r"data '.*revews' does not exist; did you mean 'reviews'\?"):
        resolve(str(tmp_path / "revews"), "data")


def test_a_missing_path_lists_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "reviews").mkdir()
    with pytest.raises(InputError, match=r"model '.*deep' does not exist; .* holds reviews; give a file, a folder"):
        resolve(str(tmp_path / "zzz" / "deep"), "model")


def test_an_empty_location_is_refused() -> None:
    with pytest.raises(InputError, match="data '' does not exist"):
        resolve("", "data")


def test_a_name_that_no_file_system_takes_is_refused() -> None:
    with pytest.raises(InputError, match="does not exist"):
        resolve("x" * 5000, "data")


@pytest.mark.parametrize("name", ["corpus_box", "corpus-box"])
def test_a_file_inside_a_package(package: Path, name: str) -> None:
    assert resolve(f"package:{name}/reviews/train.csv", "data") == package / "reviews" / "train.csv"
    assert resolve(f"package:{name}/reviews/", "data") == package / "reviews"
    assert resolve(f"package:{name}", "data") == package
    assert "corpus_box" not in sys.modules


def test_a_namespace_package_has_several_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part, name in (("one", "a.csv"), ("two", "b.csv")):
        (tmp_path / part / "spread_box").mkdir(parents=True)
        (tmp_path / part / "spread_box" / name).write_text("x")
        monkeypatch.syspath_prepend(str(tmp_path / part))
    assert resolve("package:spread_box/a.csv", "data") == tmp_path / "one" / "spread_box" / "a.csv"
    assert resolve("package:spread_box/b.csv", "data") == tmp_path / "two" / "spread_box" / "b.csv"


def test_a_package_that_is_not_installed() -> None:
    with pytest.raises(InputError, match=r"'no-such-corpus' is not installed here; `pip install no-such-corpus`"):
        resolve("package:no-such-corpus/data", "data")


def test_a_missing_file_inside_a_package(package: Path) -> None:
    with pytest.raises(InputError, match=r"does not exist; did you mean 'reviews'\?"):
        resolve("package:corpus_box/review", "data")
    with pytest.raises(InputError, match=r"does not exist; .*reviews holds train\.csv"):
        resolve("package:corpus_box/reviews/zzz", "data")


@pytest.mark.parametrize(
    "inside", ["../other", "reviews/../../x", "/etc/hosts", "reviews//train.csv", "./reviews", "C:/x", "a\\..\\b", ""]
)
def test_a_path_out_of_the_package_is_refused(package: Path, inside: str) -> None:
    with pytest.raises(InputError, match="must lie inside the package"):
        resolve(f"package:corpus_box/{inside}", "data")


@pytest.mark.parametrize("name", ["", "../corpus_box", "1box", "box;rm"])
def test_a_name_that_is_none_is_refused(package: Path, name: str) -> None:
    with pytest.raises(InputError, match="name of an installed package"):
        resolve(f"package:{name}", "data")


@pytest.mark.parametrize(("name", "message"), [("lone_module", "single module"), ("__main__", "not installed|single")])
def test_a_module_holds_no_files(package: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve(f"package:{name}/data", "data")


def test_a_dotted_name_imports_nothing(package: Path) -> None:
    with pytest.raises(InputError, match="not installed"):
        resolve("package:corpus_box.reviews/train.csv", "data")
    assert "corpus_box" not in sys.modules
