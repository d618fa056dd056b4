"""A bundle measured again: its accuracy row by row against a plain loop, its timings' shape, its self-test."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import builds
import numpy as np
import pytest
import tiny
from builds import TinyBuild, cli

import edgekit
from edgekit.errors import ArtifactError

NOTHING_BUT = """
import json, sys
from pathlib import Path
import numpy as np
import onnxruntime
from tokenizers import Tokenizer

bundle = Path(sys.argv[1])
manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
tokenizer = Tokenizer.from_file(str(bundle / manifest["tokenizer"]["path"] / "tokenizer.json"))
tokenizer.no_padding()
tokenizer.enable_truncation(manifest["tokenizer"]["max_length"])
session = onnxruntime.InferenceSession(str(bundle / manifest["model"]["path"]), providers=["CPUExecutionProvider"])
names = [i.name for i in session.get_inputs()]
assert names == [i["name"] for i in manifest["model"]["inputs"]] == ["input_ids"]
for line in sys.stdin.buffer.read().split(b"\\n")[:-1]:
    ids = tokenizer.encode(json.loads(line)["text"]).ids
    (logits,) = session.run(None, {"input_ids": np.array([ids], dtype=np.int64)})
    label = manifest["labels"][int(logits[0].argmax())]
    print(json.dumps({"input_ids": ids, "logits": [float(v) for v in logits[0]], "label": label}))
heavy = {"torch", "transformers", "edgekit", "datasets"} & set(sys.modules)
assert not heavy, heavy
"""


def app(bundle: Path, rows: bytes) -> list[dict[str, Any]]:
    """Runs texts through a bundle as an app does: onnxruntime, tokenizers and numpy, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", NOTHING_BUT, str(bundle)],
        input=rows,
        capture_output=True,
        check=False,
        env=builds.environment(bundle),
    )
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.splitlines()]


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_an_app_reproduces_the_golden_rows(tiny_build: TinyBuild) -> None:
    path = tiny_build.bundle / "golden.jsonl"
    golden = read_lines(path)
    assert len(golden) == 32
    assert {row["label"] for row in golden} == set(tiny.LABELS)
    for wanted, got in zip(golden, app(tiny_build.bundle, path.read_bytes()), strict=True):
        assert got["input_ids"] == wanted["input_ids"]
        assert got["label"] == wanted["label"]
        np.testing.assert_allclose(got["logits"], wanted["logits"], atol=1e-5)


def test_accuracy_is_that_of_a_plain_loop(tiny_build: TinyBuild, tmp_path: Path) -> None:
    test, predictions = tiny_build.sources.data / "test.jsonl", tmp_path / "predictions.jsonl"
    result = cli(
        "eval", tiny_build.bundle, "--data", test, "--device", "local", "--predictions", predictions, "--json",
        cache=tiny_build.cache,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    printed, rows = json.loads(result.stdout), read_lines(predictions)
    labelled, plain = read_lines(test), app(tiny_build.bundle, test.read_bytes())
    assert [row["row"] for row in rows] == list(range(120))
    for row, given, got in zip(rows, labelled, plain, strict=True):
        assert set(row) == {"row", "label", "prediction", "logits"}
        assert (row["label"], row["prediction"]) == (given["label"], got["label"])
        np.testing.assert_allclose(row["logits"], got["logits"], atol=1e-5)
    right = sum(row["label"] == row["prediction"] for row in rows)
    assert printed["metric"] == "accuracy"
    assert printed["score"] == pytest.approx(100 * right / 120)
    assert (printed["rows"], printed["examples"], printed["device"]) == (120, 120, "local")
    assert printed["score"] == pytest.approx(builds.manifest(tiny_build.bundle)["accuracy"]["artifact"])
    table = cli("eval", tiny_build.bundle, "--data", test, "--device", "local", cache=tiny_build.cache)
    assert f"{printed['score']:.2f}" in table.stdout


def test_some_examples_are_drawn_from_all(tiny_build: TinyBuild, tmp_path: Path) -> None:
    out = tmp_path / "some.jsonl"
    result = edgekit.evaluate(tiny_build.bundle, tiny_build.sources.data, device="local", examples=30, predictions=out)
    rows = read_lines(out)
    assert (result.examples, result.rows, len(rows)) == (30, 120, 30)
    picked = [row["row"] for row in rows]
    assert picked == sorted(set(picked))
    assert picked != list(range(30))
    labels = [row["label"] for row in read_lines(tiny_build.sources.data / "test.jsonl")]
    assert [row["label"] for row in rows] == [labels[i] for i in picked]
    assert result.score == pytest.approx(100 * sum(r["label"] == r["prediction"] for r in rows) / 30)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "/nowhere"], "does not exist"),
        (["--examples", "-1"], "--examples is -1"),
        (["--device", "abd:"], "no device scheme 'abd'"),
        (["--predictions", "/nowhere/p.jsonl"], "predictions cannot be written to /nowhere/p.jsonl"),
    ],
)
def test_eval_refuses(arguments: list[str], message: str, tiny_build: TinyBuild) -> None:
    data = ["--data", str(tiny_build.sources.data / "test.jsonl"), "--device", "local"]
    result = cli("eval", tiny_build.bundle, *data, *arguments, cache=tiny_build.cache)
    assert result.exit_code == 2, result.output
    assert re.findall("^Error: (.*)", result.stderr, re.MULTILINE)[0].count(message) == 1


def test_eval_takes_the_names_of_other_columns(tiny_build: TinyBuild, tmp_path: Path) -> None:
    rows = [{"q": row["text"], "a": row["label"]} for row in read_lines(tiny_build.sources.data / "test.jsonl")]
    (tmp_path / "other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["eval", tiny_build.bundle, "--data", tmp_path / "other.jsonl", "--device", "local", "--json"]
    refused = cli(*command, cache=tiny_build.cache)
    assert refused.exit_code == 2
    assert "--set data.text=NAME" in refused.stderr
    result = cli(*command, "--set", "data.text=q", "--set", "data.label=a", cache=tiny_build.cache)
    assert result.exit_code == 0, result.output
    same = edgekit.evaluate(tiny_build.bundle, tiny_build.sources.data, device="local")
    assert json.loads(result.stdout)["score"] == same.score


def test_eval_of_labels_that_the_model_does_not_know(tiny_build: TinyBuild, tmp_path: Path) -> None:
    (tmp_path / "other.jsonl").write_text('{"text": "hello", "label": "greeting"}\n')
    result = cli("eval", tiny_build.bundle, "--data", tmp_path / "other.jsonl", cache=tiny_build.cache)
    assert result.exit_code == 2
    assert "'greeting' (1 row)" in result.stderr
    assert "alarm, lights, music, weather" in result.stderr


def test_bench_over_the_golden_rows(tiny_build: TinyBuild) -> None:
    result = cli("bench", tiny_build.bundle, "--device", "local", "--runs", "60", "--json", cache=tiny_build.cache)
    assert result.exit_code == 0, result.output
    timing = json.loads(result.stdout)
    latency = timing["latency"]
    assert (latency["device"], latency["threads"], latency["sequence_length"]) == ("local", 1, "dynamic")
    assert (latency["runs"], sum(latency["histogram"]["artifact"])) == (60, 60)
    assert 0 < latency["p50_ms"] <= latency["p90_ms"] <= latency["p95_ms"] <= latency["p99_ms"]
    assert latency["teacher_p50_ms"] is latency["speedup"] is None, "the teacher is not in the bundle"
    assert timing["instructions"] is None
    assert "no exact instruction counter" in timing["unmeasured"]["instructions"]
    table = cli("bench", tiny_build.bundle, "--device", "local", "--runs", "50", cache=tiny_build.cache)
    assert table.exit_code == 0
    assert "ms" in table.stdout


def test_bench_at_one_length(tiny_build: TinyBuild) -> None:
    longest = builds.manifest(tiny_build.bundle)["tokenizer"]["max_length"]
    timing = edgekit.bench(tiny_build.bundle, device="local", runs=50, threads=2, sequence_length=longest)
    assert timing.latency is not None
    assert (timing.latency.sequence_length, timing.latency.threads) == (longest, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--runs", "49"], "--runs is 49; fewer than 50 say nothing of percentiles"),
        (["--threads", "0"], "--threads is 0"),
        (["--sequence-length", "1"], "--sequence-length is 1; the model takes 2 to"),
        (["--sequence-length", "1000"], "--sequence-length is 1000; the model takes 2 to"),
        (["--sequence-length", "-5"], "--sequence-length is -5"),
    ],
)
def test_bench_refuses(arguments: list[str], message: str, tiny_build: TinyBuild) -> None:
    result = cli("bench", tiny_build.bundle, "--device", "local", *arguments, cache=tiny_build.cache)
    assert result.exit_code == 2, result.output
    assert message in result.stderr


def test_verify_of_a_good_bundle(tiny_build: TinyBuild) -> None:
    result = cli("verify", tiny_build.bundle, "--device", "local", cache=tiny_build.cache)
    assert result.exit_code == 0, result.output
    # All but the manifest itself, and the report, which is made of it.
    files = sum(1 for path in tiny_build.bundle.rglob("*") if path.is_file()) - 2
    line = rf"files: {files}, golden rows: 32, error of extreme integer products: \de-\d\d, on local: all agree\n"
    assert re.fullmatch(line, result.stdout)
    outcome = edgekit.verify(tiny_build.bundle, device="local")
    assert (outcome.golden_rows, outcome.failures) == (32, ())


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_golden(bundle: Path) -> None:
    lines = (bundle / "golden.jsonl").read_bytes().splitlines()
    row = json.loads(lines[4])
    row["logits"][0] += 3.0
    lines[4] = json.dumps(row).encode()
    (bundle / "golden.jsonl").write_bytes(b"\n".join(lines) + b"\n")


def swap_model(bundle: Path) -> None:
    """Another model, and a manifest that was edited to fit: only the golden rows can tell."""
    import onnx
    from onnx import numpy_helper

    path = bundle / "model.onnx"
    model = onnx.load(path)
    scales = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and "scale" in t.name]
    largest = max(scales, key=lambda t: numpy_helper.to_array(t).size)
    largest.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(largest) * 3, largest.name))
    onnx.save(model, path)
    content = builds.manifest(bundle)
    content["model"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (bundle / "manifest.json").write_text(json.dumps(content))


DAMAGE = {
    "model flipped": (lambda b: flip(b / "model.onnx"), 2, r"model\.onnx is not the file that was built"),
    "model missing": (lambda b: (b / "model.onnx").unlink(), 2, r"model\.onnx is missing; build the bundle again"),
    "model swapped": (swap_model, 3, r"differs: golden row \d+: a logit differs by"),
    "tokenizer changed": (
        lambda b: edit_json(b / "tokenizer" / "tokenizer.json", version="2.0"), 2, r"tokenizer\.json is not the file",
    ),
    "tokenizer missing": (lambda b: (b / "tokenizer" / "tokenizer.json").unlink(), 2, r"tokenizer\.json is missing"),
    "tokenizer settings missing": (
        lambda b: (b / "tokenizer" / "tokenizer_config.json").unlink(), 3, r"tokenizer_config\.json: missing",
    ),
    "tokenizer settings cut": (
        lambda b: (b / "tokenizer" / "tokenizer_config.json").write_text("{"), 3, r"_config\.json: changed since",
    ),
    "golden edited": (
        edit_golden, 3, r"differs: golden\.jsonl: changed since it was built\n(.*\n)*differs: golden row 5: a logit",
    ),
    "a file too many": (lambda b: (b / "extra.bin").write_bytes(b"x"), 3, r"extra\.bin: not part of the bundle"),
    "golden missing": (lambda b: (b / "golden.jsonl").unlink(), 2, r"golden\.jsonl is missing"),
    "golden empty": (lambda b: (b / "golden.jsonl").write_text(""), 2, r"golden\.jsonl is empty"),
    "golden cut": (lambda b: (b / "golden.jsonl").write_text('{"text": "x"'), 2, r"line 1: not a golden row"),
    "golden not text": (lambda b: (b / "golden.jsonl").write_bytes(b"\xff\n"), 2, r"line 1: not a golden row"),
    "golden without logits": (
        lambda b: (b / "golden.jsonl").write_text('{"text": "x", "input_ids": [1], "logits": []}\n'), 2,
        r"line 1: not a golden row",
    ),
    "a file more than one": (
        lambda b: [flip(b / "golden.jsonl"), (b / "tokenizer" / "tokenizer.json").unlink()],
        2,
        r"tokenizer\.json is missing",
    ),
    "manifest missing": (lambda b: (b / "manifest.json").unlink(), 2, r"manifest\.json"),
    "manifest labels cut": (
        lambda b: edit_json(b / "manifest.json", labels=["one"]), 3, r"1 labels, but the model gives",
    ),
    "manifest bytes": (
        lambda b: edit_json(b / "manifest.json", model=builds.manifest(b)["model"] | {"bytes": 5}), 3,
        r"model\.onnx has \d+ bytes, not 5",
    ),
    "manifest max_length": (
        lambda b: edit_json(b / "manifest.json", tokenizer=builds.manifest(b)["tokenizer"] | {"max_length": 10**25}),
        2, r"max_length",
    ),
    "manifest cut": (lambda b: (b / "manifest.json").write_text("{"), 2, r"manifest\.json"),
    "manifest of the future": (lambda b: edit_json(b / "manifest.json", schema=99), 2, r"schema"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_verify_says_what_is_wrong(damage: str, tiny_build: TinyBuild, tmp_path: Path) -> None:
    change, code, message = DAMAGE[damage]
    bundle = tiny_build.copy_bundle(tmp_path / "bundle")
    change(bundle)
    result = cli("verify", bundle, "--device", "local", cache=tiny_build.cache)
    assert result.exit_code == code, result.output
    assert re.search(message, result.stdout if code == 3 else result.stderr), result.output
    assert "Traceback" not in result.output


def test_eval_does_without_files_that_it_does_not_read(tiny_build: TinyBuild, tmp_path: Path) -> None:
    bundle = tiny_build.copy_bundle(tmp_path / "bundle")
    with (bundle / "calibration.json").open("a") as stream:
        stream.write("\n")
    assert edgekit.evaluate(bundle, tiny_build.sources.data, device="local", examples=5).examples == 5
    (bundle / "calibration.json").unlink()
    assert edgekit.evaluate(bundle, tiny_build.sources.data, device="local", examples=5).examples == 5


def test_a_file_that_changed_is_one_difference(tiny_build: TinyBuild, tmp_path: Path) -> None:
    bundle = tiny_build.copy_bundle(tmp_path / "bundle")
    with (bundle / "calibration.json").open("a") as stream:
        stream.write(" ")
    assert edgekit.verify(bundle, device="local").failures == ("calibration.json: changed since it was built",)


def test_verify_of_nothing(tiny_build: TinyBuild, tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ArtifactError):
            edgekit.verify(place, device="local")
    with pytest.raises(ArtifactError, match=f"such as {tiny_build.bundle}"):
        edgekit.verify(tiny_build.bundle.parent, device="local")


def test_a_text_with_a_line_separator_is_one_golden_row(tiny_build: TinyBuild, tmp_path: Path) -> None:
    """JSON leaves U+2028 as it is, and Python's `splitlines` would cut the row there."""
    from edgekit.measure import read_golden

    row = json.loads((tiny_build.bundle / "golden.jsonl").read_bytes().splitlines()[0])
    row["text"] = "wake\u2028me\x85up"
    (tmp_path / "golden.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert [r["text"] for r in read_golden(tmp_path)] == [row["text"]]
