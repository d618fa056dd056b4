"""Files that are damaged, of another schema or with unknown operators, and constants that lie behind the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from litert_graphs import (
    FEW,
    MAX_LENGTH,
    PAD,
    constants_of,
    operators_of,
    ranges_for,
    request,
    rows,
)
from test_onnxruntime import student

from edgekit.backends import Precision, litert
from edgekit.backends import _litert_file as file
from edgekit.errors import ModelError, TargetError

pytestmark = pytest.mark.skipif(litert.missing() is not None, reason=litert.missing() or "")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graphs") / "bert.tflite"
    litert.export_student(student("bert"), "buckets", MAX_LENGTH, path)
    return path


def damaged(path: Path, out: Path, kind: str) -> Path:
    """Writes a file with a fault."""
    data = path.read_bytes()
    if kind == "cut":
        out.write_bytes(data[: len(data) // 3])
    elif kind == "empty":
        out.write_bytes(b"")
    else:
        out.write_bytes(data[:4] + b"TFL9" + data[8:])
    return out


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("cut", r"m\.tflite is a damaged \.tflite file"),
        ("empty", r"m\.tflite is no \.tflite file"),
        ("schema", r"m\.tflite is no \.tflite file: it has b'TFL9' where b'TFL3' stands"),
    ],
)
def test_a_file_that_is_none_is_refused(bert: Path, tmp_path: Path, kind: str, message: str) -> None:
    path = damaged(bert, tmp_path / "m.tflite", kind)
    for read in (litert.describe, lambda p: litert.logits(p, rows(), PAD), lambda p: litert.findings(p, "", (), ())):
        with pytest.raises(ModelError, match=message):
            read(path)
    with pytest.raises(ModelError, match="cannot be read: No such file"):
        litert.describe(tmp_path / "none.tflite")


def with_bytes_behind(path: Path, out: Path) -> Path:
    """Writes a file again with the bytes of its constants behind the model, as quantizers do with large ones."""
    model = file.read(path)
    kept = {
        place: bytes(np.asarray(b.data, dtype=np.uint8)) for place, b in enumerate(model.buffers) if b.data is not None
    }
    for place, data in kept.items():
        model.buffers[place].data, model.buffers[place].offset, model.buffers[place].size = None, 2, len(data)
    start = len(file.packed(model))  # as long with the offsets that follow
    behind = b""
    for place, data in kept.items():
        model.buffers[place].offset = start + len(behind)
        behind += data + bytes(-len(data) % 16)
    out.write_bytes(file.packed(model) + behind)
    return out


def test_constants_may_lie_behind_the_model(bert: Path, tmp_path: Path) -> None:
    path = tmp_path / "static.tflite"
    static = next(one for one in litert.SCHEMES if one.family == "static")
    litert.quantize(bert, ranges_for(litert, bert, FEW), FEW, static, Precision(), path)
    behind = with_bytes_behind(path, tmp_path / "behind.tflite")
    np.testing.assert_array_equal(litert.logits(behind, rows(), PAD), litert.logits(path, rows(), PAD))
    found, expected = constants_of(behind), constants_of(path)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
    file.write(file.read(behind), tmp_path / "again.tflite")
    np.testing.assert_array_equal(
        litert.logits(tmp_path / "again.tflite", rows(), PAD), litert.logits(path, rows(), PAD)
    )
    cut = tmp_path / "cut.tflite"
    cut.write_bytes(behind.read_bytes()[:-64])
    with pytest.raises(ModelError, match=r"cut\.tflite is a damaged \.tflite file"):
        file.read(cut)


def test_operators_that_the_runtime_lacks_are_named(bert: Path, tmp_path: Path) -> None:
    model = file.read(bert)
    names = operators_of(bert)
    for op, custom, number in (("GELU", b"FlexGelu", 32), ("TANH", None, 250)):
        code = model.operatorCodes[model.subgraphs[0].operators[names.index(op)].opcodeIndex]
        code.builtinCode, code.deprecatedBuiltinCode, code.customCode = number, min(number, 127), custom
    file.write(model, tmp_path / "m.tflite")
    (tmp_path / "out").mkdir()
    for use in (
        lambda path: litert.logits(path, rows(), PAD),
        lambda path: litert.compile(path, request(tmp_path), tmp_path / "out"),
    ):
        with pytest.raises(TargetError, match="has operators that LiteRT lacks: custom FlexGelu, number 250"):
            use(tmp_path / "m.tflite")
    assert not list((tmp_path / "out").iterdir())
