"""edgekit beside what a user would take instead: same teacher, same test rows, same machine, one run.

Builds every peer in a venv of its own, then takes accuracy on the whole test split, times beside the teacher's in the
same run, Arm instructions, size, memory and the seconds that building took. A peer that cannot be installed, or fails
on this model, is a row that says why. What a peer chooses it chooses on dev; test is for the figure alone.

    python bench/peers/run.py my-model my-data --edgekit dist --work peers-work --out results.jsonl

`--rows 100` is a trial: so many rows of test and dev, 20 times as many of train, one epoch, a table that says so.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from building import PEERS, PeerError, Way, build, make_venv, open_peer
from building import TEACHER as TEACHER_PEER
from measuring import (
    PLAN,
    TEACHER,
    OnnxModel,
    accuracy,
    count_instructions,
    onnx_model,
    predict,
    predict_other,
    time_onnx,
    time_other,
)
from peer import SEED, Split, write_split
from table import render

from edgekit import data
from edgekit.artifact import tree_digest
from edgekit.checkpoint import read_labels
from edgekit.data_read import Columns, find_splits
from edgekit.devices import TokenRows, connect
from edgekit.devices._host import cpu_model, isa_flags
from edgekit.errors import EdgekitError, InputError
from edgekit.manifest import Step
from edgekit.opened import open_bundle
from edgekit.source import resolve
from edgekit.stages.evaluate import draw
from edgekit.stages.search import Search
from edgekit.stages.teach import encode_for_teacher
from edgekit.tasks import load_task
from edgekit.tokenization import encode, load_tokenizer

TASK = "text-classification"
TIMED_TEXTS = 60
TRIAL_TRAIN = 20  # training rows of a trial for each test row
OURS = "edgekit"


@dataclass(frozen=True)
class Rows:
    """The rows of one run.

    Attributes:
        folder: of train and dev, all that a peer may see.
        measured: folder of the rows that figures are taken on, test and timed.
        test: of the data set, or so many of it as `--rows` says.
        timed: those of test that times are taken over.
        facts: of the data set, as edgekit reads it.
    """

    folder: Path
    measured: Path
    test: Split
    timed: Split
    facts: Mapping[str, Any]


def main() -> None:
    """Measures one teacher and data set, appends its rows to a file, and prints the table."""
    given = arguments()
    work, teacher = given.work.resolve(), resolve(given.teacher, "model").resolve()
    name = given.name or Path(given.data).name
    folder = work / "runs" / name
    try:
        rows = prepare_rows(teacher, given.data, folder, given.rows)
        ways, failed = build_all(given.peers, teacher, rows, work, folder / "built", 1 if given.rows else None)
        found = [*measure_all(ways, given.edgekit, teacher, rows, work, given.instructions), *failed]
    except EdgekitError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    shared = {"dataset": name, "limited": given.rows or None, **circumstances()}
    lines = [{**shared, **row} for row in found]
    with given.out.open("a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(line) + "\n" for line in lines)
    print(render(lines))


def arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", metavar="TEACHER", help="folder of the fine-tuned checkpoint")
    parser.add_argument("data", metavar="DATA", help="folder with train, test and perhaps dev")
    parser.add_argument("--edgekit", type=Path, required=True, metavar="DIST", help="folder that a build left")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines are appended to it, one a row")
    parser.add_argument("--work", type=Path, default=Path("peers-work"), help="venvs and models; gigabytes, kept")
    parser.add_argument("--name", default="", help="of the data set in the table; by default its folder's")
    parser.add_argument("--rows", type=int, default=0, help="a trial: so many rows of test, one epoch")
    parser.add_argument("--peers", default=",".join(p.removeprefix("peer_") for p in PEERS), help="which, by name")
    parser.add_argument("--instructions", default="qemu:cortex-a76", help="device that counts; empty counts none")
    given = parser.parse_args()
    chosen = [f"peer_{name}" for name in given.peers.split(",")]
    unknown = [name.removeprefix("peer_") for name in chosen if name not in PEERS]
    if unknown or given.rows < 0:
        known = ", ".join(p.removeprefix("peer_") for p in PEERS)
        parser.error(f"unknown peers {', '.join(unknown)}; there are {known}" if unknown else "--rows is negative")
    given.peers = [name for name in PEERS if name in chosen or name == TEACHER_PEER]  # every ratio needs the teacher
    return given


def circumstances() -> dict[str, Any]:
    """Says what the figures were taken with and on: versions, processor, day."""
    return {
        "edgekit": metadata.version("edgekit"),
        "onnxruntime": metadata.version("onnxruntime"),
        "cpu": cpu_model(),
        "isa": " ".join(isa_flags()),
        "rounds": PLAN.rounds,
        "block_runs": PLAN.block_runs,
        "day": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def prepare_rows(teacher: Path, source: str, folder: Path, limit: int) -> Rows:
    """Reads the data as a build does, in the teacher's own tokenisation, and writes what peers and runners read."""
    task = load_task(TASK)
    dataset = data.load(find_splits(resolve(source, "data")), Columns(task.COLUMNS), seed=0)
    classes = task.align(read_labels(teacher), dataset.labels)

    def split(pairs: Sequence[tuple[str, str]]) -> Split:
        texts = [text for text, _ in pairs]
        return Split(texts, encode_for_teacher(teacher, texts), np.array([classes[label] for _, label in pairs]))

    def drawn(pairs: Sequence[tuple[str, str]], count: int) -> list[tuple[str, str]]:
        return [pairs[i] for i in draw(len(pairs), count, SEED)]

    learn, measured = folder / "rows", folder / "measured"
    test = split(drawn(dataset.test, limit))
    timed = split(drawn(dataset.test, TIMED_TEXTS))
    for place, name, one in (
        (learn, "train", split(drawn(dataset.train, TRIAL_TRAIN * limit))),
        (learn, "dev", split(drawn(dataset.dev, limit))),
        (measured, "test", test),
        (measured, "timed", timed),
    ):
        place.mkdir(parents=True, exist_ok=True)
        write_split(place, name, one)
    return Rows(learn, measured, test, timed, dataset.facts)


def build_all(
    peers: Sequence[str], teacher: Path, rows: Rows, work: Path, folder: Path, epochs: int | None
) -> tuple[list[Way], list[dict[str, Any]]]:
    """Builds every way of every peer, the teacher first; returns what was built, and a row for each that was not.

    Raises:
        InputError: the teacher itself cannot be exported.
    """
    job = {"teacher": str(teacher), "rows": str(rows.folder), "graph": str(folder / graph_of()), "epochs": epochs}
    # Listed, since a downloaded checkpoint is a folder of links.
    job["inputs"] = " ".join(
        tree_digest(one, (p for p in one.iterdir() if p.is_file())) for one in (teacher, rows.folder)
    )
    ways: list[Way] = []
    failed: list[dict[str, Any]] = []
    before = 0.0

    def fail(name: str, label: str, error: PeerError) -> None:
        if name == TEACHER_PEER:
            raise InputError(f"the teacher cannot be exported: {error}") from error
        tell(f"  failed: {error}")
        failed.append({"way": label, "peer": name.removeprefix("peer_"), "failed": str(error)})

    for name in peers:
        peer = open_peer(name)
        try:
            python = make_venv(work, peer.VENV)
        except PeerError as error:
            for label in peer.WAYS.values():
                fail(name, label, error)
            continue
        for key, label in peer.WAYS.items():
            tell(f"building {label}")
            try:
                way = build(name, key, job, python, folder / f"{name}-{key}", before)
            except PeerError as error:
                fail(name, label, error)
                continue
            tell(f"  built in {way.seconds:.0f} s{': ' + way.chosen if way.chosen else ''}")
            before = way.seconds if name == TEACHER_PEER else before
            ways.append(way)
    return ways, failed


def graph_of() -> str:
    """Returns where the teacher's graph stands within the folder of what is built."""
    (key,) = open_peer(TEACHER_PEER).WAYS
    return f"{TEACHER_PEER}-{key}/model.onnx"


def bundles(dist: Path, rows: Rows) -> Iterator[tuple[str, OnnxModel, dict[str, Any]]]:
    """Yields edgekit's bundles: name in the table, model, and what the manifest says of its making.

    Raises:
        InputError: there is none, or it was built from other data.
    """
    folders = sorted(path.parent for path in dist.glob("*/manifest.json"))
    if not folders:
        raise InputError(f"{dist} holds no bundle; give the folder that `edgekit build --out` wrote")
    opened = [open_bundle(folder) for folder in folders]
    steps = [step for one in opened for step in one.manifest.lineage]
    searched = max((step.seconds for step in steps if step.stage == Search.NAME), default=0.0)
    for folder, bundle in zip(folders, opened, strict=True):
        item = bundle.manifest
        if item.data.facts.get("sha256") != rows.facts["sha256"]:
            raise InputError(f"{folder} was built from other data, or another draw of dev: build it from this data")
        tokenizer = load_tokenizer(folder / item.tokenizer.path, item.tokenizer.max_length)
        test, timed = (TokenRows(encode(tokenizer, one.texts)) for one in (rows.test, rows.timed))
        facts = {
            "bytes": item.model.device_bytes,
            "seconds": seconds_of(item.lineage, searched),
            "versions": {"edgekit": item.edgekit},
            "chosen": next((str(s.facts.get("name", "")) for s in item.lineage if s.stage == "select"), ""),
            "takes": "tokens",
            "runtime": "onnxruntime",
        }
        yield f"{OURS}, bundle for {item.target_name}", OnnxModel(bundle.model, test, timed), facts


def seconds_of(lineage: Sequence[Step], searched: float) -> float:
    """Returns what a build from nothing takes.

    A search's seconds hold those of the student that it had trained.

    Args:
        lineage: of the bundle.
        searched: seconds of the longest search of all bundles: a second target finds what the first had trained.
    """
    if not any(step.stage == Search.NAME for step in lineage):
        return sum(step.seconds for step in lineage)
    conducted = Search().knowing({}).conducted
    return searched + sum(step.seconds for step in lineage if step.stage not in (Search.NAME, *conducted))


def measure_all(
    ways: Sequence[Way], dist: Path, teacher: Path, rows: Rows, work: Path, counter: str
) -> list[dict[str, Any]]:
    """Takes every figure of everything that was built; what fails on the way is a row with the reason."""
    pad_id = json.loads((teacher / "config.json").read_text(encoding="utf-8")).get("pad_token_id") or 0
    models: dict[str, OnnxModel] = {}
    found: dict[str, dict[str, Any]] = {}
    others: dict[str, Way] = {}
    for way in ways:
        peer = open_peer(way.peer)
        name = TEACHER if way.peer == TEACHER_PEER else way.name
        found[name] = {
            "way": way.name,
            "peer": way.peer.removeprefix("peer_"),
            "takes": peer.TAKES,
            "runtime": peer.RUNTIME,
            "bytes": way.bytes,
            "seconds": way.seconds,
            "chosen": way.chosen,
            "facts": way.facts,
            "versions": way.versions,
        }
        if peer.RUNTIME == "onnxruntime":
            models[name] = onnx_model(way.folder / way.files[0], pad_id, rows.test, rows.timed)
        else:
            others[name] = way
    for name, model, facts in bundles(dist, rows):
        models[name], found[name] = model, {"way": name, "peer": OURS, **facts}

    answers: dict[str, np.ndarray] = {}
    for name, model in list(models.items()):
        answered = attempt(found[name], lambda m=model: {"answers": predict(m)})
        if answered is None:
            del models[name]
        else:
            answers[name] = answered["answers"]
    for name, way in list(others.items()):
        answered = attempt(found[name], lambda w=way: {"answers": predict_other(w, work, rows.measured)})
        if answered is None:
            del others[name]
        else:
            answers[name] = answered["answers"]
    for name, classes in answers.items():
        found[name] |= accuracy(classes, answers[TEACHER], rows.test.expected)

    tell(f"timing {len(models)} ONNX files in one run")
    for name, timed in time_onnx(models).items():
        found[name] |= timed
    for name, way in others.items():
        tell(f"timing {way.name} beside the teacher")
        found[name] |= attempt(found[name], lambda w=way: time_other(w, work, rows.measured, models[TEACHER])) or {}
    missing = connect(counter).unavailable() if counter else None
    if counter and missing is None:
        tell(f"counting the instructions of {len(models)} ONNX files on {counter}")
        for name, counted in count_instructions(models, counter).items():
            found[name] |= counted
    elif missing is not None:
        for row in found.values():
            row["instructions_reason"] = missing.reason
    return list(found.values())


def attempt(row: dict[str, Any], take: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    """Takes a figure, or notes in the row why it cannot be taken and returns None.

    The teacher's and edgekit's own failures are not results: they end the run.

    Raises:
        EdgekitError, PeerError: it cannot be taken of the teacher or of edgekit's bundle.
    """
    try:
        return take()
    except (EdgekitError, PeerError) as error:
        if row["peer"] in (OURS, TEACHER_PEER.removeprefix("peer_")):
            raise
        traceback.print_exc()
        row["failed"] = str(error)[:300]
        return None


def tell(message: str) -> None:
    """Says what happens now, to stderr: stdout is for the table."""
    print(f"{time.strftime('%H:%M:%S')} {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
