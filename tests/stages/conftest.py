"""What a search takes, made once for the tests of what it chooses and of what it trains."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
from builds import TinyBuild, made
from cost_tables import table

from edgekit.artifact import Costs, TeacherOutline, write_json
from edgekit.codec import encode
from edgekit.stages.outline import Outlining, read_outline
from edgekit.stages.search import Search


@pytest.fixture(scope="module")
def artifacts(tiny_build: TinyBuild, tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Any]:
    """Returns what a search takes."""
    found = {kind: made(tiny_build, kind) for kind in Search.IN if kind not in (TeacherOutline, Costs)}
    given = [found[kind] for kind in Outlining.IN]
    found[TeacherOutline] = tiny.run_stage(Outlining(rows=60), given, tmp_path_factory.mktemp("outline"))
    outline = read_outline(found[TeacherOutline].file)
    found[Costs] = Costs(tmp_path_factory.mktemp("costs"), "")
    write_json(found[Costs].file, encode(table(hidden=outline.hidden, head_dim=outline.head_dim)))
    return found
