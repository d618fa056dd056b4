"""What the lint finds in activations."""

from __future__ import annotations

import numpy as np

from edgekit.quant.findings import Finding, constant_tensors, in_order, outlier_channels, unsteady_ranges
from edgekit.quant.ranges import observe


def test_outlier_channels_are_named_with_their_ratio() -> None:
    magnitudes = np.ones(40)
    magnitudes[[7, 31]] = [60, 12]
    finding = outlier_channels("layers.0.up", magnitudes, "divide them")
    assert finding is not None
    assert (finding.check, finding.place, finding.cure) == ("outlier-channels", "layers.0.up", "divide them")
    assert finding.detail == "input channels 7 (60 times), 31 (12 times) against the median channel"
    assert finding.cost == "the other channels keep about 2.1 of 8 bits"  # log2(60) = 5.9
    assert outlier_channels("x", magnitudes.clip(max=5.9), "") is None
    assert outlier_channels("x", np.zeros(4), "") is None


def test_all_but_very_many_are_named() -> None:
    few = outlier_channels("x", np.concatenate([np.ones(40), np.full(9, 10)]), "")
    assert few is not None
    assert few.detail.count("times") == 5
    assert few.detail.endswith("44 (10 times), 45, 46, 47, 48 against the median channel")
    many = outlier_channels("x", np.concatenate([np.ones(80), np.full(40, 10)]), "")
    assert many is not None
    assert "111 and 8 more" in many.detail


def test_the_order_does_not_depend_on_that_of_the_checks() -> None:
    found = [Finding("b", "1", "", "", ""), Finding("a", "2", "", "", ""), Finding("a", "1", "", "", "")]
    assert [f.check + f.place for f in in_order(found)] == ["a1", "a2", "b1"]


def test_halves_that_disagree_are_named_with_what_they_disagree_by() -> None:
    rows = [{"calm": np.array([-1.0, 1.0]), "wild": np.array([-1.0, 3.0 if i == 3 else 1.0])} for i in range(8)]
    (finding,) = unsteady_ranges(observe(rows))
    assert (finding.check, finding.place) == ("unsteady-range", "wild")
    assert finding.detail == "-1 to 1 on one half of the calibration rows, -1 to 3 on the other"
    assert finding.cost == "up to 50 % of the range is decided by which rows were drawn"


def test_halves_in_different_places_disagree_though_they_are_as_wide() -> None:
    rows = [{"x": np.array([-4.0, 1.0] if i % 2 else [-1.0, 4.0])} for i in range(8)]
    (finding,) = unsteady_ranges(observe(rows))
    assert finding.cost == "up to 38 % of the range is decided by which rows were drawn"  # 3 of 8


def test_a_constant_tensor_is_named() -> None:
    rows = [{"dead": np.full(3, 0.5), "alive": np.array([0.1 * i, 1.0])} for i in range(4)]
    (finding,) = constant_tensors(observe(rows))
    assert (finding.check, finding.place, finding.detail) == ("constant-tensor", "dead", "always 0.5")
