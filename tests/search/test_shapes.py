"""Units of work counted again: of the exported graph, run for its tensors' sizes, and of cases done by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from edgekit.backends import load_backend
from edgekit.ir.config import EdgekitConfig
from edgekit.ir.encoder import EdgekitForSequenceClassification
from edgekit.quiet import quiet_libraries
from edgekit.search.shapes import UNITS, Shape, passes, units

SHAPE = Shape(hidden=48, head_dim=8, heads=(3, 1, 2), ffn=(20, 64, 36), labels=5)
LENGTHS = (2, 5, 11)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The float graph of a random student of that shape."""
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    torch.manual_seed(0)
    config = EdgekitConfig(
        vocab_size=30,
        embedding_size=SHAPE.hidden,
        hidden_size=SHAPE.hidden,
        head_dim=SHAPE.head_dim,
        heads=list(SHAPE.heads),
        ffn=list(SHAPE.ffn),
        max_positions=16,
        num_labels=SHAPE.labels,
    )
    with quiet_libraries(("torch", "transformers")):
        load_backend("onnxruntime").export_student(EdgekitForSequenceClassification(config).eval(), "dynamic", 16, path)
    return path


def counted(shape: Shape, length: int) -> dict[str, float]:
    """The units of one row, by name."""
    return dict(zip(UNITS, units(shape, [length])[0].tolist(), strict=True))


@pytest.mark.parametrize("length", LENGTHS)
def test_units_are_those_of_the_exported_graph(graph: Path, length: int) -> None:
    model = onnx.load(graph)
    weights = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    kinds = {node.output[0]: node for node in model.graph.node}
    wanted = [n for n, node in kinds.items() if node.op_type in ("Gemm", "MatMul", "Softmax", "Gelu")]
    entering = [node.input[0] for node in kinds.values() if node.op_type == "Gemm"]
    row = np.arange(1, length + 1, dtype=np.int64)
    (values,) = load_backend("onnxruntime").activations(graph, [*wanted, *entering], [row], 0)
    products = one_row = over_rows = outputs = 0
    for name, node in kinds.items():
        if node.op_type == "Gemm":
            rows, size = len(values[node.input[0]]), weights[node.input[1]].size
            products += rows * size if rows > 1 else 0
            over_rows += size if rows > 1 else 0
            one_row += size if rows == 1 else 0
            outputs += values[name].size if rows > 1 else 0
    found = counted(SHAPE, length)
    assert (found["products"], found["one_row"]) == (products, one_row)
    assert (found["weights"], found["outputs"]) == (over_rows, outputs)
    assert found["passes"] == over_rows * passes(length)
    softmax = [values[name] for name, node in kinds.items() if node.op_type == "Softmax"]
    assert found["scores"] == sum(one.size for one in softmax)
    assert found["tiled"] == over_rows * 16
    assert found["tiled_scores"] == sum(one.size // length * 16 for one in softmax)
    assert found["head_tokens"] == found["heads"] * length
    assert found["heads"] == sum(one.shape[-3] for one in softmax)
    gelu = [values[name].shape for name, node in kinds.items() if node.op_type == "Gelu"]
    assert found["activation"] == sum(rows * width for rows, width in gelu if rows > 1)
    assert found["activation_one_row"] == sum(width for rows, width in gelu if rows == 1)
    assert (found["call"], found["layers"], found["tokens"]) == (1, 2, length)


WEIGHTS = sum(4 * 48 * 8 * heads + 2 * 48 * ffn for heads, ffn in zip(SHAPE.heads, SHAPE.ffn, strict=True)) + 48 * 53


def test_weights_beyond_the_caches_are_read_for_every_token() -> None:
    streamed = UNITS.index("streamed")
    assert units(SHAPE, LENGTHS, WEIGHTS - 100)[:, streamed].tolist() == [100 * length for length in LENGTHS]
    for cached in (WEIGHTS, None):
        assert not units(SHAPE, LENGTHS, cached)[:, streamed].any()


@pytest.mark.parametrize(("times", "share"), [(1, 0), (1.25, 0.25), (1.5, 0.5), (2, 1), (9, 1)])
def test_the_more_weights_outgrow_the_caches_the_more_are_lost_before_they_are_read_again(
    times: float, share: float
) -> None:
    found = units(SHAPE, LENGTHS, round(WEIGHTS / times))[:, UNITS.index("fetched")]
    assert found == pytest.approx([WEIGHTS * share] * len(LENGTHS), rel=1e-3)
    assert not units(SHAPE, LENGTHS, None)[:, UNITS.index("fetched")].any()


def test_tokens_and_scores_fill_whole_tiles() -> None:
    few, more = counted(SHAPE, 16), counted(SHAPE, 17)
    assert more["tiled"] == 2 * few["tiled"] == 32 * few["weights"]
    assert few["tiled_scores"] == few["scores"]
    assert more["tiled_scores"] == (3 + 1) * 17 * 32 + 2 * 32


def test_a_factorised_word_table_is_one_more_product_over_all_tokens() -> None:
    whole, factorised = counted(SHAPE, 7), counted(Shape(48, 8, SHAPE.heads, SHAPE.ffn, 5, word_rank=16), 7)
    more = {name: factorised[name] - whole[name] for name in UNITS if factorised[name] != whole[name]}
    wanted = {"products": 16 * 48 * 7, "weights": 16 * 48, "passes": 16 * 48 * 3, "outputs": 48 * 7}
    assert more == wanted | {"tiled": 16 * 48 * 16, "factors": 16 * 7}


def test_passes_take_the_largest_tiles_first() -> None:
    assert [passes(rows) for rows in (1, 2, 3, 4, 7, 8, 12, 15, 16, 24)] == [1, 1, 2, 1, 3, 1, 2, 4, 2, 3]


@pytest.mark.parametrize(
    "changes", [{"heads": (1, 1)}, {"heads": (), "ffn": ()}, {"ffn": (0, 1, 1)}, {"labels": 0}, {"word_rank": -1}]
)
def test_an_impossible_shape_is_refused(changes: dict[str, object]) -> None:
    values = {"hidden": 48, "head_dim": 8, "heads": (1, 1, 1), "ffn": (1, 1, 1), "labels": 2, **changes}
    with pytest.raises(ValueError, match=r"layers|positive"):
        Shape(**values)  # type: ignore[arg-type]
