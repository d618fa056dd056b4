"""Evens out the inputs of the student's products before they are quantized, where that brings int8 nearer to float.

For each product, strengths of migration are tried: it alone is computed as its integers would be, and the logits are
compared with the float student's on training rows. The best is kept where it takes away enough of the squared error to
be worth the Mul that it costs, as long as rounding still moves the logits by more than is worth caring about; where it
costs none, any gain counts.

Ref: Xiao et al. 2022, SmoothQuant (2211.10438); here the strength is chosen per product, by the model's own output.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgekit import data
from edgekit.artifact import FACTS, EqualisedStudent, LabelledData, Student, Vocabulary, write_json
from edgekit.calibration import Policy, draw
from edgekit.errors import StageContractError
from edgekit.inference import run_rows
from edgekit.quant.findings import WORTH_TELLING, outlier_channels
from edgekit.quant.ranges import AUTO
from edgekit.quant.weights import Bound
from edgekit.stage import Context, Inputs, Pass
from edgekit.tokenization import encode, load_tokenizer

if TYPE_CHECKING:
    from torch import Tensor

    from edgekit.ir.encoder import EdgekitForSequenceClassification
    from edgekit.ir.simulate import Extremes

LENGTH_STRATA = 4
BOUND: Bound = "pairs"
MORE = "--set equalise.min_gain=0 --set equalise.tolerance=0 takes every division that helps"
FLOAT_TOLERANCE = 1e-3
"""Largest change of a float logit that rounding of the folded scales may make, relative to the largest logit."""


@dataclass(frozen=True)
class Equalise(Pass):
    """Migrates scales between activations and weights.

    Attributes:
        strengths: of the migration that are tried, each between 0 and 1; none leaves the student as it is.
        min_ratio: products whose largest input channel is less than this many times the median one are left alone.
        min_gain: share of the logits' squared error that a multiplier must take away to be kept.
        tolerance: root mean squared error of the logits, in their spread over the classes, from which on no multiplier
            is worth its time.
        rows: training rows that the logits are compared on, evenly over lengths and classes.
    """

    strengths: tuple[float, ...] = (0.25, 0.5, 0.75, 0.9)
    min_ratio: float = 3.0
    min_gain: float = 0.05
    tolerance: float = 0.01
    rows: int = 128

    NAME: ClassVar[str] = "equalise"
    VERSION: ClassVar[int] = 7
    IN: ClassVar = (Student, Vocabulary, LabelledData)
    OUT: ClassVar = EqualisedStudent
    TOOLS: ClassVar[tuple[str, ...]] = ("torch", "transformers", "tokenizers", "numpy")

    def __post_init__(self) -> None:
        if not all(0 <= strength <= 1 for strength in self.strengths):
            raise ValueError(f"strengths are {list(self.strengths)}; each must lie between 0 and 1")
        if self.min_ratio < 1 or not 0 <= self.min_gain < 1 or self.rows < 1:
            raise ValueError("min_ratio and rows must be at least 1, min_gain between 0 and 1")
        if self.tolerance < 0:
            raise ValueError(f"tolerance is {self.tolerance}; it must be at least 0")

    def run(self, inputs: Inputs, out_dir: Path, ctx: Context) -> None:
        """Writes a checkpoint of the IR that answers as the student does."""
        from edgekit.ir.encoder import EdgekitForSequenceClassification
        from edgekit.ir.equalise import divide, is_free, migration, products, with_multipliers
        from edgekit.ir.simulate import integers, layer_of, outputs_of, watch

        student = EdgekitForSequenceClassification.from_pretrained(inputs[Student].path, local_files_only=True).eval()
        vocabulary, dataset = inputs[Vocabulary], data.read(inputs[LabelledData].path)
        encoded = encode(
            load_tokenizer(vocabulary.tokenizer, vocabulary.max_length), [text for text, _ in dataset.train]
        )
        classes = [dataset.labels.index(label) for _, label in dataset.train]
        policy = Policy(self.NAME, "", self.rows, LENGTH_STRATA, True, AUTO, ctx.seed)
        rows = [encoded[i] for i in draw([len(row) for row in encoded], classes, policy)]
        pad_id = vocabulary.facts["pad_token_id"]
        expected = run_rows(student, rows, pad_id, lambda *_: None)
        extremes = watch(student, rows)
        found = {}
        layer = 0
        before: list[Tensor] = []
        for done, name in enumerate(extremes, 1):
            within = layer_of(name, len(student.layers))
            if within > layer:  # what comes before a product is float: it need not be computed for each strength anew
                layer, before = within, outputs_of(student, within - 1, lambda m: _error(m, rows, pad_id, expected))
            found[name] = self._tried(student, name, extremes[name], layer, before, rows, pad_id, expected)
            ctx.progress(done, len(extremes), "products")
        spread = float((expected - expected.mean(axis=-1, keepdims=True)).std())
        chosen = worth_it(found, self.min_gain, (self.tolerance * spread) ** 2)
        used = [name for name in chosen if not is_free(student.config, name)]
        result = with_multipliers(student, used)
        after = dict(extremes)
        for name in chosen:
            strength = found[name].strength
            assert strength is not None
            divisor = migration(extremes[name].magnitudes, dict(products(student))[name].weight, strength)
            divide(result, name, divisor)
            after[name] = extremes[name].divided(divisor)
        change = float(np.abs(run_rows(result, rows, pad_id, lambda *_: None) - expected).max())
        if change > FLOAT_TOLERANCE * max(1.0, float(np.abs(expected).max())):
            raise StageContractError(f"equalising changed a float logit by {change:.2g}")
        for file in inputs[Student].path.iterdir():
            if file.name not in ("model.safetensors", "config.json", FACTS):
                shutil.copyfile(file, out_dir / file.name)
        result.save_pretrained(out_dir)
        left = [outlier_channels(name, one.magnitudes.numpy(), MORE, WORTH_TELLING) for name, one in after.items()]
        facts = {
            "findings": [asdict(finding) for finding in left if finding is not None],
            "logit_rmse_before": _error(integers(student, extremes), rows, pad_id, expected) ** 0.5,
            "logit_rmse_after": _error(integers(result, after), rows, pad_id, expected) ** 0.5,
            "rows": len(rows),
            "multiplied": used,
            "divided": {name: found[name].strength for name in chosen},
            "float_change": change,
            "products": {name: {**asdict(one), "chosen": name in chosen} for name, one in found.items()},
        }
        write_json(out_dir / FACTS, facts)

    def _tried(
        self,
        student: EdgekitForSequenceClassification,
        name: str,
        seen: Extremes,
        layer: int,
        before: Sequence[Tensor],
        rows: Sequence[np.ndarray],
        pad_id: int,
        expected: np.ndarray,
    ) -> Tried:
        """Rounds one product alone, with its input as it is and divided at each strength.

        Runs start at `layer`, with what the one before it gave in float.
        """
        from edgekit.ir.equalise import can_divide, is_free, migration, products
        from edgekit.ir.simulate import one_rounded, resumed

        product = dict(products(student))[name]

        def error(divisor: Tensor | None) -> float:
            model = one_rounded(student, name, seen, divisor, BOUND)
            return _error(resumed(model, layer, before) if layer else model, rows, pad_id, expected)

        undivided = error(None)
        least, strength = undivided, None
        if can_divide(student.config, name) and seen.outlier_ratio >= self.min_ratio:
            for tried in self.strengths:
                now = error(migration(seen.magnitudes, product.weight, tried))
                if now < least:
                    least, strength = now, tried
        return Tried(round(seen.outlier_ratio, 2), is_free(student.config, name), undivided, least, strength)


@dataclass(frozen=True)
class Tried:
    """What was found of one product.

    Attributes:
        outlier_ratio: its largest input channel's magnitude over the median one's.
        free: whether a division costs no Mul.
        before, after: mean squared error of the logits when it alone is rounded, undivided and at the best strength.
        strength: the best one; None where none is better than no division.
    """

    outlier_ratio: float
    free: bool
    before: float
    after: float
    strength: float | None


def worth_it(found: Mapping[str, Tried], min_gain: float, enough: float) -> list[str]:
    """Chooses the divisions that are made, by name and in the order of `found`.

    Errors of products that are rounded one at a time add up, nearly: so a division's gain is held against the sum of
    all: those that are free first, then the largest gain. One at a time, because where every product is bad, mending
    one of them hardly shows.

    Args:
        found: by product.
        min_gain: share of what is left of the sum that a division with a Mul has to take away.
        enough: mean squared error of the logits; where no more than that is left, none with a Mul is made.
    """
    left = sum(one.before for one in found.values())
    chosen = set()
    for name, one in sorted(found.items(), key=lambda item: (not item[1].free, item[1].after - item[1].before)):
        gain = one.before - one.after
        worth = gain > 0 if one.free else left > enough and gain > min_gain * left
        if one.strength is not None and worth:
            chosen.add(name)
            left -= gain
    return [name for name in found if name in chosen]


def _error(
    model: EdgekitForSequenceClassification, rows: Sequence[np.ndarray], pad_id: int, expected: np.ndarray
) -> float:
    """Returns the mean squared difference of the logits from the float student's."""
    return float(np.mean((run_rows(model, rows, pad_id, lambda *_: None) - expected) ** 2))
