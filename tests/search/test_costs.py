"""Tables of costs: fits against prices that are known, sums of layers, files, and what a table is refused for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cost_tables import LENGTHS, PRICES, price, setting, table
from scipy import optimize

from edgekit.codec import encode
from edgekit.errors import RecipeError
from edgekit.search.costs import (
    CACHED,
    CostTable,
    Point,
    check_setting,
    fitted,
    read_costs,
    shipped_costs,
    shipped_family,
)
from edgekit.search.shapes import UNITS, Shape, units
from edgekit.stages._students import spread
from edgekit.stages.profile import LENGTHS as MEASURED
from edgekit.target import shipped_folder

UNSEEN = (
    Shape(32, 8, (3,), (70,), 3),
    Shape(32, 8, (2, 4), (100, 20), 12),
    Shape(32, 8, (1, 3, 2, 4), (128, 5, 40, 77), 150),
)
SHIPPED = sorted((shipped_folder() / "costs").glob("*.json"))


@pytest.fixture(scope="module")
def costs() -> CostTable:
    return table()


@pytest.mark.parametrize("family", PRICES)
@pytest.mark.parametrize("shape", UNSEEN, ids=str)
def test_shapes_and_lengths_that_were_not_measured_are_priced(costs: CostTable, shape: Shape, family: str) -> None:
    for length in (3, 7, 13, 40):
        assert costs.cost(shape, [length], [family]) == pytest.approx(price(shape, length, family), rel=1e-6)


def test_a_cost_is_the_mean_over_rows_of_the_family_that_would_be_shipped(costs: CostTable) -> None:
    for shape in UNSEEN:
        means = {family: np.mean([price(shape, length, family) for length in (4, 9, 30)]) for family in PRICES}
        assert costs.cost(shape, [4, 9, 30]) == pytest.approx(means[shipped_family(means)], rel=1e-6)
        assert costs.shipped(shape, [4, 9, 30]) == shipped_family(means)
        for family, mean in means.items():
            assert costs.cost(shape, [4, 9, 30], [family]) == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize("cached", [None, 2 << 20])
def test_weights_that_outgrow_the_caches_are_found_where_times_tell_of_them(cached: int | None) -> None:
    """Of a wide teacher, whose students hold from 0.3 to 30 million weights."""
    prices = {"static": {**PRICES["static"], "streamed": 0.004 if cached else 0.0}}
    points = [
        Point(shape, {"static": tuple(price(shape, length, "static", prices, cached) for length in LENGTHS)})
        for shape in spread(768, 64)
    ]
    timed = fitted(LENGTHS, points, "ms")["static"]
    assert timed.cached == cached
    assert timed.largest_error < 1e-3
    counted = fitted(LENGTHS, points, "instructions")["static"]
    assert counted.cached is None
    assert counted.coefficients["streamed"] == 0
    assert (counted.largest_error > 1) == (cached is not None)


def test_wide_tiles_and_weights_lost_from_a_cache_are_told_apart_from_what_goes_by_rows() -> None:
    """As on a processor of 512-bit vectors and a second cache of 2 MB: priced so, found again."""
    family = "static"
    prices = {family: {"call": 0.02, "layers": 0.015, "tiled": 4e-10, "tiled_scores": 1e-6, "head_tokens": 4e-5}}
    prices[family] |= {"fetched": 3e-8, "residual": 5e-7, "activation": 1e-6, "factors": 4e-7, "one_row": 5e-9}
    cached = CACHED[3]
    points = [
        Point(shape, {family: tuple(price(shape, length, family, prices, cached) for length in MEASURED)})
        for shape in spread(384, 32)
    ]
    fit = fitted(MEASURED, points, "ms")[family]
    assert fit.cached == cached
    for shape in (Shape(384, 32, (10,), (960,), 60, 128), Shape(384, 32, (9, 3), (1280, 96), 150, 192)):
        for length in (12, 24, 100, 300):
            wanted = price(shape, length, family, prices, cached)
            assert price(shape, length, family, {family: fit.coefficients}, cached) == pytest.approx(wanted, rel=1e-3)


def test_a_fit_is_nowhere_as_far_off_as_least_squares(costs: CostTable) -> None:
    random = np.random.default_rng(3)
    rows, errors = [], []
    noisy = [
        Point(p.shape, {"static": tuple(c * random.lognormal(0, 0.1) for c in p.costs["static"])}) for p in costs.points
    ]
    found = fitted(LENGTHS, noisy, "instructions")["static"].coefficients
    for point in noisy:
        for length, cost in zip(LENGTHS, point.costs["static"], strict=True):
            rows.append(units(point.shape, [length])[0] / cost)
            errors.append(abs(price(point.shape, length, "static", {"static": found}) / cost - 1))
    matrix = np.array(rows)
    scale = matrix.max(axis=0)
    scale[scale == 0] = 1
    least, _ = optimize.nnls(matrix / scale, np.ones(len(matrix)))
    squares = np.abs(matrix / scale @ least - 1)
    assert max(errors) < squares.max()
    assert np.mean(np.power(errors, 3)) < np.mean(squares**3)
    assert np.mean(np.square(errors)) > np.mean(squares**2)


def test_coefficients_are_never_negative_and_errors_are_told_of_shapes_left_out(costs: CostTable) -> None:
    random = np.random.default_rng(0)
    noisy = [
        Point(p.shape, {f: tuple(c * random.lognormal(0, 0.1) for c in of) for f, of in p.costs.items()})
        for p in costs.points
    ]
    for family, fit in fitted(LENGTHS, noisy, "instructions").items():
        assert min(fit.coefficients.values()) >= 0
        errors = []
        for place, point in enumerate(noisy):
            others = fitted(LENGTHS, [*noisy[:place], *noisy[place + 1 :]], "instructions")[family].coefficients
            for length, cost in zip(LENGTHS, point.costs[family], strict=True):
                errors.append(100 * abs(price(point.shape, length, family, {family: others}) / cost - 1))
        assert (fit.mean_error, fit.largest_error) == pytest.approx((np.mean(errors), np.max(errors)), rel=1e-4)
    assert max(fit.largest_error for fit in costs.fits.values()) < 1e-3


def test_a_slower_machine_is_a_factor(costs: CostTable) -> None:
    slower = costs.scaled(1.25)
    assert slower.cost(UNSEEN[1], [9]) == pytest.approx(1.25 * costs.cost(UNSEEN[1], [9]))
    assert slower.points[0].costs["static"][0] == pytest.approx(1.25 * costs.points[0].costs["static"][0])
    with pytest.raises(ValueError, match="positive"):
        costs.scaled(0.0)


def test_of_a_fixed_length_all_rows_cost_the_same() -> None:
    padded = table(lengths=(16,), sequence_length=16)
    assert padded.cost(UNSEEN[0], [3]) == padded.cost(UNSEEN[0], [16, 5]) == padded.cost(UNSEEN[0], [16])


def test_what_a_table_cannot_tell_is_refused(costs: CostTable) -> None:
    with pytest.raises(ValueError, match="width"):
        costs.cost(Shape(64, 8, (1,), (1,), 2), [4])
    with pytest.raises(ValueError, match="no lengths"):
        costs.cost(UNSEEN[0], [])
    with pytest.raises(ValueError, match="weight-only"):
        costs.cost(UNSEEN[0], [4], ["weight-only"])


def write(path: Path, value: Any) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def test_a_file_is_read_back_as_it_was(costs: CostTable, tmp_path: Path) -> None:
    assert read_costs(write(tmp_path / "t.json", encode(costs))) == costs


def changed(costs: CostTable, *places: Any) -> dict[str, Any]:
    """The table as JSON with one value replaced (or, where it is None, taken away), named by its path."""
    *path, name, new = places
    value: dict[str, Any] = json.loads(json.dumps(encode(costs)))
    inner: Any = value
    for step in path:
        inner = inner[step]
    if new is None:
        del inner[name]
    else:
        inner[name] = new
    return value


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (("schema", 1), "schema: expected one of 2"),
        (("unit", "hours"), "unit: expected one of ms, instructions, cycles"),
        (("lenghts", [1]), "lenghts: unknown key; did you mean 'lengths'"),
        (("date", None), "date: missing"),
        (("points", 0, "costs", "static", 0, -1.0), "points.0..costs.static.0.: expected at least"),
        (("points", 0, "costs", "static", [1.0]), "not one cost for each family and length"),
        (("points", 0, "costs", {}), "not one cost for each family and length"),
        (("points", 0, "shape", "hidden", 64), "another width"),
        (("points", 0, "shape", "heads", []), "layers"),
        (("points", []), "lacks points"),
        (("reference", 99), "reference is 99"),
        (("lengths", list(reversed(LENGTHS))), "lengths do not rise"),
        (("fits", "static", "coefficients", "call", -1.0), "fits.static.coefficients.call: expected at least 0"),
        (("fits", "static", "coefficients", "call", None), "an earlier edgekit made it"),
        (("setting", "threads", 0), "setting.threads: expected at least 1"),
    ],
)
def test_a_damaged_file_is_refused(costs: CostTable, tmp_path: Path, places: Any, message: str) -> None:
    path = write(tmp_path / "t.json", changed(costs, *places))
    with pytest.raises(RecipeError, match=message) as caught:
        read_costs(path)
    assert str(path) in str(caught.value)
    assert "edgekit profile" in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"schema": NaN}', '{"a": 1, "a": 2}'])
def test_what_is_no_table_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError, match="not a table of costs"):
        read_costs(write(tmp_path / "t.json", text))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        read_costs(tmp_path / "none.json")


def test_a_family_that_there_is_not_is_refused(costs: CostTable, tmp_path: Path) -> None:
    value = encode(costs)
    value["fits"]["ternary"] = value["fits"].pop("dynamic")
    with pytest.raises(RecipeError, match="ternary"):
        read_costs(write(tmp_path / "t.json", value))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": 64}, "hidden 32, wanted 64"),
        ({"sequence_length": 48}, 'sequence_length "dynamic", wanted 48'),
        ({"quant": {"scheme": "auto", "ops": ["Gemm"]}}, "quant ops"),
        ({"options": {"session.x": "1"}}, "runtime option session.x null"),
        ({"fingerprint": {"device": "null", "cpu": "other", "onnxruntime": "1.31.1"}}, 'cpu "none", wanted "other"'),
        ({"fingerprint": {"device": "null", "cpu": "none", "onnxruntime": "1.30.0"}}, "onnxruntime"),
    ],
)
def test_a_table_of_another_setting_is_refused_with_both(
    costs: CostTable, changes: dict[str, Any], message: str
) -> None:
    wanted = setting(**changes)
    with pytest.raises(RecipeError, match=message) as caught:
        check_setting(costs, wanted, "t.json")
    for fingerprint in (costs.setting.fingerprint, wanted.fingerprint):
        assert f"cpu {fingerprint['cpu']}, onnxruntime {fingerprint['onnxruntime']}" in str(caught.value)


def test_a_table_of_the_same_kernels_serves(costs: CostTable) -> None:
    fingerprint = {**costs.setting.fingerprint, "runner": "1" * 64, "cores": "8"}
    check_setting(costs, setting(fingerprint=fingerprint, quant={"scheme": "auto", "ops": ("Gemm", "Gather")}), "t")


def test_no_table_is_shipped_of_a_setting_that_nobody_has() -> None:
    assert shipped_costs(setting()) is None


@pytest.mark.parametrize("path", SHIPPED, ids=[path.stem for path in SHIPPED])
def test_shipped_tables_are_found_by_their_setting_and_fit_their_own_points(path: Path) -> None:
    shipped = read_costs(path)
    assert shipped_costs(shipped.setting) == (path.stem, shipped)
    for family, fit in fitted(shipped.lengths, shipped.points, shipped.unit).items():
        assert shipped.fits[family].cached == fit.cached
        assert shipped.fits[family].largest_error == pytest.approx(fit.largest_error, rel=1e-3)
        counted = np.concatenate([units(point.shape, shipped.lengths, fit.cached) for point in shipped.points])
        stored, fresh = (counted * [one.coefficients[name] for name in UNITS] for one in (shipped.fits[family], fit))
        np.testing.assert_allclose(stored, fresh, rtol=1e-5, atol=1e-6 * fresh.sum(axis=1).min())
        # Left out, the widest shape of all is beyond what is left: of times, that can be far off.
        assert fit.mean_error < 5
        assert fit.largest_error < 10 or shipped.unit == "ms"


@pytest.mark.parametrize(
    ("static", "dynamic", "shipped"),
    [(1.0, 0.95, "static"), (1.0, 0.89, "dynamic"), (0.5, 1.0, "static"), (None, 2.0, "dynamic")],
)
def test_the_static_form_ships_unless_another_takes_a_tenth_less(
    static: float | None, dynamic: float, shipped: str
) -> None:
    by_family = {"dynamic": dynamic} | ({} if static is None else {"static": static})
    assert shipped_family(by_family) == shipped
