"""What the lint finds in activations and ranges."""

from __future__ import annotations

import numpy as np

from edgekit.quant.findings import Finding, constant_tensors, outlier_channels, unsteady_ranges, worst_first
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


def test_more_than_five_are_counted() -> None:
    finding = outlier_channels("x", np.concatenate([np.ones(40), np.full(9, 10)]), "")
    assert finding is not None
    assert finding.detail.count("times") == 5
    assert "and 4 more" in finding.detail


def test_halves_that_disagree() -> None:
    random = np.random.default_rng(0)
    rows = [{"steady": random.uniform(-1, 1, 200), "wild": random.uniform(-1, 1, 200)} for _ in range(20)]
    rows[3]["wild"][5] = 9.0
    found = unsteady_ranges(observe(rows[:10]), observe(rows[10:]))
    assert [finding.place for finding in found] == ["wild"]
    assert found[0].detail.startswith("spans 10 on one half of the calibration rows, 2 on the other")
    assert found[0].cost.startswith("up to 80 %")


def test_a_constant_tensor() -> None:
    rows = [{"dead": np.full(5, 2.5), "alive": np.array([1.0, 2.0])}] * 3
    assert [(f.place, f.detail) for f in constant_tensors(observe(rows))] == [("dead", "always 2.5")]


def test_the_order_does_not_depend_on_that_of_the_checks() -> None:
    found = [Finding("b", "1", "", "", ""), Finding("a", "2", "", "", ""), Finding("a", "1", "", "", "")]
    assert [f.check + f.place for f in worst_first(found)] == ["a1", "a2", "b1"]
