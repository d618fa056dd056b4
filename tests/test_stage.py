"""The cache key holds all that an output may depend on, and a stage gets at nothing else."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from pathlib import Path
from typing import Any, ClassVar

import pytest

from edgekit.artifact import Graph, Ranges, Vocabulary
from edgekit.errors import StageContractError
from edgekit.stage import Inputs, Pass, Stage, components, difference, key_of
from edgekit.stages import ORDER
from edgekit.target import Target, TargetView, load_target


@dataclasses.dataclass(frozen=True)
class Count(Pass):
    """A stage that only tests have."""

    epochs: int = 1
    names: tuple[str, ...] = ("a", "b")

    NAME: ClassVar[str] = "count"
    VERSION: ClassVar[int] = 1
    IN: ClassVar = (Graph,)
    OUT: ClassVar = Ranges
    READS: ClassVar[tuple[str, ...]] = ("device.threads", "quant")
    TOOLS: ClassVar[tuple[str, ...]] = ("numpy",)


class Newer(Count):
    VERSION = 2


class Measured(Count):
    MEASURES = True


TARGET = load_target("x86-64")
GRAPH = Graph(Path("/nowhere"), "1" * 64)


def parts(stage: Stage | None = None, target: Target = TARGET, **changes: Any) -> dict[str, Any]:
    values = {"graph": GRAPH, "task": "text-classification", "seed": 0, "device": None} | changes
    stage = stage or Count()
    inputs = Inputs({Graph: values["graph"]}, stage.IN)
    return components(stage, inputs, target, values["task"], values["seed"], values["device"])


def other_threads() -> Target:
    return dataclasses.replace(TARGET, device=dataclasses.replace(TARGET.device, threads=7))


def other_quant() -> Target:
    return dataclasses.replace(TARGET, quant=dataclasses.replace(TARGET.quant, ops=("Gemm",)))


def test_the_key_is_stable() -> None:
    assert key_of(parts()) == key_of(parts())
    assert len(key_of(parts())) == 64
    assert key_of({"a": 1, "b": [2]}) == key_of({"b": [2], "a": 1})


def test_the_key_changes_with_each_component(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {
        "as it is": key_of(parts()),
        "option": key_of(parts(Count(epochs=2))),
        "option of a list": key_of(parts(Count(names=("a",)))),
        "version": key_of(parts(Newer())),
        "declared field": key_of(parts(target=other_threads())),
        "declared section": key_of(parts(target=other_quant())),
        "input": key_of(parts(graph=Graph(Path("/nowhere"), "2" * 64))),
        "task": key_of(parts(task="token-classification")),
        "seed": key_of(parts(seed=1)),
    }
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "99.0")
    keys["tool"] = key_of(parts())
    assert len(set(keys.values())) == len(keys)


def test_the_key_ignores_what_the_output_cannot_depend_on() -> None:
    gate = dataclasses.replace(TARGET, name="x", gate=dataclasses.replace(TARGET.gate, max_drop=9.0))
    assert key_of(parts(target=gate)) == key_of(parts())
    assert key_of(parts(graph=Graph(Path("/elsewhere"), GRAPH.digest))) == key_of(parts())
    assert key_of(parts(device={"uri": "local"})) == key_of(parts()), "only a stage that measures has a device"


def test_a_measurement_belongs_to_one_device() -> None:
    one, other = (key_of(parts(Measured(), device={"uri": "local", "cpu": cpu})) for cpu in ("old", "new"))
    assert one != other


def test_a_target_shows_declared_fields_only() -> None:
    view = TargetView(TARGET, Count.READS, Count.NAME)
    assert view["device.threads"] == TARGET.device.threads
    assert view["quant"]["ops"] == TARGET.quant.ops
    with pytest.raises(StageContractError, match=r"stage count read target field 'gate\.max_drop' without declaring"):
        view["gate.max_drop"]


def test_inputs_show_declared_kinds_only() -> None:
    vocabulary = Vocabulary(Path("/nowhere"), "3" * 64)
    inputs = Inputs({Graph: GRAPH, Vocabulary: vocabulary}, (Graph,))
    assert inputs[Graph] is GRAPH
    assert inputs.digests() == {"graph": GRAPH.digest}
    with pytest.raises(StageContractError, match="Vocabulary is not among the declared inputs"):
        inputs[Vocabulary]


def test_an_empty_output_breaks_the_contract(tmp_path: Path) -> None:
    with pytest.raises(StageContractError, match="Count wrote nothing"):
        Count().ensures(tmp_path, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        (parts(Count()), parts(Count(epochs=2)), "option epochs 1 → 2"),
        (parts(Count(epochs=3)), parts(Count(epochs=2, names=())), "option epochs 3 → 2; option names ['a', 'b'] → []"),
        (parts(), parts(Newer()), "version 1 → 2"),
        (parts(), parts(seed=5), "seed 0 → 5"),
        (parts(), parts(target=other_threads()), "target's device.threads 1 → 7"),
        (parts(), parts(graph=Graph(Path("/nowhere"), "2" * 64)), "graph changed"),
        ({"tools": {"numpy": "1"}}, {"tools": {"numpy": "2"}}, "version of numpy 1 → 2"),
        ({"device": {"cpu": "old"}}, {"device": {"cpu": "new"}}, "device's cpu old → new"),
        ({"options": {}}, {"options": {"rows": 5}}, "option rows None → 5"),
        (parts(), parts(), ""),
    ],
)
def test_a_difference_in_words(before: dict[str, Any], now: dict[str, Any], words: str) -> None:
    assert difference(before, now) == words


def test_every_stage_keeps_the_protocol() -> None:
    made = {cls.OUT for cls in ORDER}
    assert len(made) == len(ORDER), "two stages make one kind"
    assert len({cls.NAME for cls in ORDER}) == len(ORDER)
    for cls in ORDER:
        stage = cls()
        assert isinstance(stage, Stage)
        assert dataclasses.is_dataclass(cls)
        with pytest.raises(dataclasses.FrozenInstanceError):
            stage.NAME = "x"  # type: ignore[misc]
        assert cls.__doc__
        parts_of = components(stage, Inputs(dict.fromkeys(cls.IN, GRAPH), cls.IN), TARGET, "t", 0, {})
        assert set(parts_of["target"]) == set(cls.READS), "every declared field exists"


def test_every_stage_comes_after_what_it_takes() -> None:
    outputs = [cls.OUT for cls in ORDER]
    for place, cls in enumerate(ORDER):
        for kind in cls.IN:
            assert kind not in outputs[place:], f"{cls.NAME} takes what a later stage makes"
