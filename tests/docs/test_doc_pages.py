"""What the pages say agrees with the repository: links, options, formats, messages, pictures."""

from __future__ import annotations

import ast
import dataclasses
import re
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from docs_markdown import PAGES, ROOT, Block, anchors, blocks, links

from edgekit.calibration import load_policy
from edgekit.recipe import load_recipe, make_stage
from edgekit.stages import ORDER
from edgekit.target import load_target

GUIDE = ROOT / "docs" / "guide.md"
ADRS = sorted((ROOT / "docs" / "adr").glob("[0-9]*.md"))
PYTHON, TOML = blocks("python"), blocks("toml")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    for link in links(page):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_path_of_a_machine(page: Path) -> None:
    assert not re.search(r"/(home|Users|root|work|tmp)/", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_compiles(block: Block) -> None:
    tree = ast.parse(block.text)
    import edgekit

    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "edgekit":
            assert hasattr(edgekit, node.attr)


@pytest.mark.parametrize("block", TOML, ids=str)
def test_toml_is_read(block: Block, tmp_path: Path) -> None:
    table = tomllib.loads(block.text)
    path = tmp_path / f"{table.get('name', 'edgekit')}.toml"
    path.write_text(block.text, encoding="utf-8")
    if "device" in table:
        load_target(str(path))
    elif "method" in table:
        load_policy(str(path))
    else:
        values = load_recipe(path)
        for stage, options in values.get("options", {}).items():
            make_stage(next(cls for cls in ORDER if stage == cls.NAME), options)


def test_targets_page_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "make_targets.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", ADRS, ids=lambda page: page.stem)
def test_decisions_are_listed_and_short(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert page.name in links(ROOT / "docs" / "adr" / "README.md")
    assert text.startswith(f"# {int(page.name[:4])}. ")
    for part in ("Context", "Decision", "Consequences"):
        assert re.search(rf"^(## {part}$|\*\*{part}\.\*\*)", text, re.MULTILINE), part
    assert len(text.split()) < 450


def _option_tables() -> dict[str, dict[str, str]]:
    """Returns the guide's options by stage: name → default as shown."""
    section = GUIDE.read_text(encoding="utf-8").split("### Stages and their options")[1].split("\n## ")[0]
    parts = re.split(r"^#### (\w+)$", section, flags=re.MULTILINE)[1:]
    row = re.compile(r"^\| `(\w+)` \| `([^`]*)` \|", re.MULTILINE)
    return {name: dict(row.findall(text)) for name, text in zip(parts[::2], parts[1::2], strict=True)}


def test_guide_lists_the_stages_in_their_order() -> None:
    assert list(_option_tables()) == [cls.NAME for cls in ORDER]


@pytest.mark.parametrize("cls", ORDER, ids=lambda cls: cls.NAME)
def test_guide_lists_the_options_of_a_stage(cls: type[Any]) -> None:
    shown = {name: value.strip('"') for name, value in _option_tables()[cls.NAME].items()}
    assert list(shown) == [field.name for field in dataclasses.fields(cls) if not field.metadata.get("internal")]
    assert make_stage(cls, shown) == cls()


def test_guide_quotes_messages_that_there_are() -> None:
    files = sorted((ROOT / "edgekit").rglob("*.py"))
    # Joins the pieces of a literal that stands on several lines.
    code = re.sub(r"[\"']\s*\n\s*f?[\"']", "", "\n".join(file.read_text(encoding="utf-8") for file in files))
    section = GUIDE.read_text(encoding="utf-8").split("## Messages")[1]
    messages = re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)
    assert len(messages) > 20
    for message in messages:
        for piece in message.split("…"):
            assert piece.strip() in code, message


def test_picture_names_every_stage() -> None:
    words = {text.strip() for text in ET.parse(ROOT / "docs" / "pipeline.svg").getroot().itertext()}
    assert {cls.NAME for cls in ORDER} <= words


def test_readme_is_short_and_names_every_folder() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 100
    assert text.count("<!-- figures: demo -->") == text.count("<!-- /figures -->") == 1
    packages = {file.parent.name for file in (ROOT / "edgekit").glob("*/__init__.py")}
    assert packages <= set(re.findall(r"^  (\w+)/ ", text, re.MULTILINE))


def test_readme_names_the_architectures() -> None:
    from edgekit.frontends import architectures

    names = {"bert": "BERT", "distilbert": "DistilBERT", "electra": "ELECTRA", "mpnet": "MPNet", "roberta": "RoBERTa"}
    names["xlm-roberta"] = "XLM-R"
    assert set(architectures()) == set(names)
    for page in (ROOT / "README.md", GUIDE):
        assert all(name in page.read_text(encoding="utf-8") for name in names.values())
