"""The package's ranges admit the versions that `make` installs, and the wheel's data folders are there."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
TESTED = {
    name.lower().replace("_", "-"): version
    for name, _, version in (
        line.partition("==")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    )
}
DECLARED = [
    *PROJECT["project"]["dependencies"],
    *(
        item
        for extra in PROJECT["project"]["optional-dependencies"].values()
        for item in extra
        if not item.startswith("edgekit[")  # another of the extras, not a package
    ),
]


@pytest.mark.parametrize("declared", DECLARED)
def test_a_declared_range_admits_the_tested_version(declared: str) -> None:
    requirement = Requirement(declared)
    assert requirement.specifier.contains(TESTED[requirement.name.lower().replace("_", "-")])


def test_constraints_hold_versions_only() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if "@" in line or "://" in line or "+" in line]


def test_folders_that_the_wheel_takes_in_exist() -> None:
    for folder in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]:
        assert list((ROOT / folder).glob("*.toml"))
