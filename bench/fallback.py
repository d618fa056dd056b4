"""The fallback ladder beside neural-compressor's trial loop, where static int8 loses too much.

Both get the same float graph, the same ranges, and the same goal on dev. The loop (`common.base_tuning`) takes
configurations in the order that it is given: here each product alone, then cumulatively from the graph's start or from
its end, which is all that is known beforehand. What counts is how much is left float, how many models were made for it,
and what the result answers on test.

    pip install --no-deps neural-compressor==3.10 prettytable psutil py-cpuinfo
    python bench/fallback.py banking77=path/to/teacher,path/to/data --method entropy --max-loss 0.3
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from quantization import TASK, Case, case, logits, ratios

from edgekit import data
from edgekit.artifact import LabelledData, Ranges, Teacher, Vocabulary
from edgekit.backends import load_backend
from edgekit.backends._onnx_schemes import STATIC
from edgekit.checkpoint import read_labels
from edgekit.quant.ranges import NAMES, ranges_of, read_observed
from edgekit.search.trials import Subject, Trial, Trials
from edgekit.stages.evaluate import draw
from edgekit.stages.quantize import alone, rungs
from edgekit.target import load_target
from edgekit.tasks import load_task
from edgekit.tokenization import encode, load_tokenizer

DEV_ROWS = 500


def subject(one: Case, target: str, folder: Path) -> Subject:
    """Returns what trials are made of, as stage `quantize` takes it."""
    vocabulary, ranges, rows, teacher = (one.artifacts[t] for t in (Vocabulary, Ranges, LabelledData, Teacher))
    assert isinstance(vocabulary, Vocabulary)
    assert isinstance(ranges, Ranges)
    task, dataset, profile = load_task(TASK), data.read(rows.path), load_target(target)
    classes = task.align(read_labels(teacher.path), dataset.labels)
    dev = [dataset.dev[i] for i in draw(len(dataset.dev), DEV_ROWS, seed=0)]
    expected = np.array([classes[label] for _, label in dev])
    return Subject(
        backend=load_backend(profile.runtime.name),
        graph=one.graph,
        ranges={method: ranges_of(read_observed(ranges.statistics), method) for method in NAMES},
        means={},
        quant=dataclasses.asdict(profile.quant),
        weight_method=ranges.facts["weight_method"],
        embedding="int8",
        rows=encode(load_tokenizer(vocabulary.tokenizer, vocabulary.max_length), [text for text, _ in dev]),
        pad_id=one.pad_id,
        score=lambda found: task.metric(found, expected),
        folder=folder,
    )


def peer(
    attempt: Callable[[Sequence[str]], Trial], sets: Sequence[Sequence[str]], floats: float, goal: float
) -> tuple[Trial, int]:
    """Runs neural-compressor's loop over sets of float products; returns the trial that ended it, and how many ran."""
    from neural_compressor.common.base_config import BaseConfig
    from neural_compressor.common.base_tuning import TuningConfig, init_tuning

    class Fallback(BaseConfig):  # type: ignore[misc]
        name = "fallback"
        params_list: ClassVar = ["keep_float"]  # what tells two of them apart

        def __init__(self, keep_float: tuple[str, ...]) -> None:
            super().__init__()
            self.keep_float = keep_float

        def expand(self) -> list[Fallback]:
            return [self]

        @classmethod
        def register_supported_configs(cls) -> None:
            """Nothing: operators are named by the graph."""

        @classmethod
        def get_config_set_for_tuning(cls) -> None:
            """None: the set is given."""

    wanted = [Fallback(tuple(names)) for names in sets]
    loader, _, monitor = init_tuning(TuningConfig(wanted, tolerable_loss=1 - goal / floats, max_trials=len(wanted)))
    monitor.set_baseline(floats)
    for number, config in enumerate(loader):
        trial = attempt(config.keep_float)
        with contextlib.redirect_stdout(io.StringIO()):
            monitor.add_trial_result(number, trial.score, config)
        if monitor.need_stop():
            break
    return trial, monitor.trial_cnt


def main() -> None:
    """Measures one pair and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pair", metavar="NAME=MODEL,DATA")
    parser.add_argument("--form", default="student", help="teacher or student")
    parser.add_argument("--layers", type=int, default=6, help="layers of the teacher")
    parser.add_argument("--method", default="entropy", help="of the ranges: one that loses")
    parser.add_argument("--max-loss", type=float, default=0.3, help="points on dev that may be lost against float")
    parser.add_argument("--target", default="x86-64")
    given = parser.parse_args()
    name, _, places = given.pair.partition("=")
    model, _, source = places.partition(",")
    one = case(name, given.form, model, source, given.target, given.layers)
    with tempfile.TemporaryDirectory() as folder:
        trials = Trials(subject(one, given.target, Path(folder)), lambda trial: None)
        products = trials.subject.backend.products(one.graph, trials.subject.quant["ops"])
        total = sum(product.weights for product in products.values())
        whole = trials.run(STATIC[0], given.method)
        floats = trials.float_score
        goal = floats - given.max_loss

        def attempt(keep_float: Sequence[str]) -> Trial:
            return trials.run(STATIC[0], given.method, keep_float=tuple(keep_float))

        names = list(products)
        singles = [[product] for product in names]
        orders = {
            "from the start": [names[: n + 1] for n in range(len(names))],
            "from the end": [names[::-1][: n + 1] for n in range(len(names))],
        }
        found: dict[str, tuple[Trial, int]] = {"all in int8": (whole, 1)}
        before = len(trials.done)
        climbed = rungs(trials, whole, alone(trials, whole), goal)
        found["edgekit's ladder"] = (climbed[-1], len(trials.done) - before)
        for order, sets in orders.items():
            found[f"neural-compressor's loop, {order}"] = peer(attempt, [*singles, *sets], floats, goal)
        paths = {way: Path(folder) / trial.file for way, (trial, _) in found.items()}
        timed = ratios({"float": one.graph, **paths}, one.test[:50])
        print(f"{name}, {given.form}: float {trials.float_score:.2f} % on dev, {goal:.2f} % wanted, {given.method}\n")
        print("| Way | models made | weights left float | dev | test | times float's speed |")
        print("| --- | ---: | ---: | ---: | ---: | ---: |")
        for way, (trial, count) in found.items():
            right = 100 * float(np.mean(logits(paths[way], one.test).argmax(-1) == one.expected))
            share = 100 * sum(products[product].weights for product in trial.keep_float) / total
            print(f"| {way} | {count} | {share:.1f} % | {trial.score:.2f} | {right:.2f} | {timed[way][1]:.2f} |")


if __name__ == "__main__":
    main()
