"""Reads the user's data into normal form; every fault of the data shows here, before time is spent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from edgekit import data
from edgekit.artifact import FACTS, LabelledData, RawData, write_json
from edgekit.stage import Context, Inputs, Pass
from edgekit.tasks import load_task


@dataclass(frozen=True)
class ReadData(Pass):
    """Reads, checks and splits.

    Attributes:
        text: name of the column with the text; empty finds it by the task's usual names.
        label: name of the column with the label; empty finds it likewise.
        dev_fraction: share of train that becomes dev where there is none; test is a tenth where there is none.
    """

    text: str = ""
    label: str = ""
    dev_fraction: float = 0.1

    NAME: ClassVar[str] = "data"
    VERSION: ClassVar[int] = 1
    IN: ClassVar = (RawData,)
    OUT: ClassVar = LabelledData
    TOOLS: ClassVar[tuple[str, ...]] = ("datasets",)

    def __post_init__(self) -> None:
        if not 0 < self.dev_fraction < 0.5:
            raise ValueError(f"dev_fraction is {self.dev_fraction}; it must lie between 0 and 0.5")

    def run(self, inputs: Inputs, out_dir: Path, ctx: Context) -> None:
        """Writes train.jsonl, dev.jsonl, test.jsonl and dataset.json."""
        files = data.find_splits(inputs[RawData].path)
        named = {role: name for role, name in (("text", self.text), ("label", self.label)) if name}
        columns = data.Columns(candidates=load_task(ctx.task).COLUMNS, chosen=named)
        dataset = data.load(files, columns, seed=ctx.seed, dev_fraction=self.dev_fraction)
        data.write(dataset, out_dir)
        write_json(out_dir / FACTS, dict(dataset.facts))
