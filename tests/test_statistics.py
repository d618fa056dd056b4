"""The statistics against references that share no code with them: numpy, scipy, closed forms, published tables."""

from __future__ import annotations

import itertools
import math
import random
from statistics import NormalDist

import numpy as np
import pytest

from edgekit import statistics as st


def tango_by_quartic(lost: int, gained: int, rows: int, confidence: float) -> tuple[float, float]:
    """Tango's limits in closed form: the roots of the polynomial that squaring the score equation leaves.

    Ref: Yang, Sun & Hardin 2013, Statistics in Medicine 32:1336-1342 (derived anew here). With the constrained
    estimate q the score equation is (b - c - n d)^2 = z^2 n (2 q + d (1 - d)); q is a root of A q^2 + B q + C.
    """
    z2 = NormalDist().inv_cdf(0.5 + confidence / 2) ** 2
    a = 2.0 * rows
    b = np.polynomial.Polynomial([-(lost + gained), 2 * rows - lost + gained])
    c = np.polynomial.Polynomial([0, -gained, gained])
    d = np.polynomial.Polynomial([0, 1])
    distance = lost - gained - rows * d
    twice_q = distance**2 / (z2 * rows) - d * (1 - d)
    q = twice_q / 2
    polynomial = a * q**2 + b * q + c
    roots = sorted(r.real for r in polynomial.roots() if abs(r.imag) < 1e-5 and -1 - 1e-9 <= r.real <= 1 + 1e-9)
    # Squaring adds roots; the limits are those at which q is the estimate, the larger root of its own equation.
    real = [r for r in roots if abs(2 * a * q(r) + b(r) - math.sqrt(max(b(r) ** 2 - 4 * a * c(r), 0))) < 1e-3]
    return 100 * real[0], 100 * real[-1]


@pytest.mark.parametrize(("lost", "gained", "rows"), [(1, 7, 21), (40, 20, 160), (9, 3, 200), (38, 14, 3080)])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_tango_agrees_with_the_closed_form(lost: int, gained: int, rows: int, confidence: float) -> None:
    assert st.tango_interval(lost, gained, rows, confidence) == pytest.approx(
        tango_by_quartic(lost, gained, rows, confidence), abs=1e-4
    )


def test_tango_gives_the_published_interval() -> None:
    # Airway hyper-responsiveness, 21 children (Bentur 2009); Fagerland, Lydersen & Laake 2014: -0.517 to -0.026.
    assert st.tango_interval(1, 7, 21) == pytest.approx((-51.7, -2.6), abs=0.05)


@pytest.mark.parametrize("rows", [1, 10, 872, 100_000])
def test_tango_without_flips_is_the_simple_bound(rows: int) -> None:
    z2 = NormalDist().inv_cdf(0.95) ** 2
    assert st.tango_upper(0, 0, rows) == pytest.approx(100 * z2 / (rows + z2))


def test_tango_score_is_the_constrained_maximum() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    lost, gained, rows, difference = 9, 3, 200, 0.05

    def unlikelihood(gained_rate: float) -> float:
        same = 1 - 2 * gained_rate - difference
        return -(
            lost * math.log(gained_rate + difference)
            + gained * math.log(gained_rate)
            + (rows - lost - gained) * math.log(same)
        )

    best = optimize.minimize_scalar(
        unlikelihood, bounds=(1e-9, (1 - difference) / 2 - 1e-9), method="bounded", options={"xatol": 1e-12}
    ).x
    score = (lost - gained - rows * difference) / math.sqrt(rows * (2 * best + difference * (1 - difference)))
    assert st._tango_score(difference, lost, gained, rows) == pytest.approx(score, rel=1e-5)


def test_tango_is_symmetric_ordered_and_inside_the_range() -> None:
    for lost, gained, rows in itertools.product(range(0, 12, 3), range(0, 12, 3), (12, 25, 400)):
        if lost + gained > rows:
            continue
        low, high = st.tango_interval(lost, gained, rows)
        assert -100 <= low <= 100 * (lost - gained) / rows <= high <= 100
        assert st.tango_interval(gained, lost, rows) == pytest.approx((-high, -low), abs=1e-9)
        wide = st.tango_interval(lost, gained, rows, 0.99)
        assert wide[0] <= low + 1e-9
        assert high <= wide[1] + 1e-9


def test_tango_extremes() -> None:
    assert st.tango_upper(5, 0, 5) == pytest.approx(100)
    assert st.tango_lower(0, 5, 5) == pytest.approx(-100)
    assert st.tango_upper(9, 3, 200, 0.5) == pytest.approx(3.0, abs=1e-6)
    assert st.tango_upper(9, 3, 200, 0.1) < 3.0 < st.tango_upper(9, 3, 200, 0.9)


@pytest.mark.parametrize(
    ("lost_rate", "gained_rate", "rows"), [(0.02, 0.01, 500), (0.03, 0.03, 300), (0.10, 0.02, 200)]
)
def test_tango_covers_the_truth(lost_rate: float, gained_rate: float, rows: int) -> None:
    generator = np.random.default_rng(5)
    draws = generator.multinomial(rows, [lost_rate, gained_rate, 1 - lost_rate - gained_rate], size=3000)
    truth = 100 * (lost_rate - gained_rate)
    seen = {}
    covered = above = 0
    for lost, gained, _ in draws.tolist():
        if (lost, gained) not in seen:
            seen[lost, gained] = (st.tango_interval(lost, gained, rows), st.tango_upper(lost, gained, rows))
        (low, high), bound = seen[lost, gained]
        covered += low <= truth <= high
        above += truth <= bound
    assert 0.935 <= covered / len(draws) <= 0.97
    assert 0.93 <= above / len(draws) <= 0.985


@pytest.mark.parametrize("counts", [(-1, 0, 5), (0, -1, 5), (3, 3, 5), (0, 0, 0)])
def test_tango_refuses_impossible_counts(counts: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="expected counts"):
        st.tango_interval(*counts)
    with pytest.raises(ValueError, match="probability"):
        st.tango_interval(1, 1, 10, 1.0)


def test_mcnemar_known_values() -> None:
    assert st.mcnemar_p(5, 0) == 1 / 32  # the smallest table that is significant at 5 %
    assert st.mcnemar_p(4, 0) == 1 / 16
    assert st.mcnemar_p(0, 0) == 1.0
    assert st.mcnemar_p(0, 7) == 1.0


@pytest.mark.parametrize(("lost", "gained"), [(1, 1), (10, 3), (38, 14), (3, 30), (600, 500)])
def test_mcnemar_agrees_with_scipy(lost: int, gained: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(lost, lost + gained, 0.5, alternative="greater").pvalue
    assert st.mcnemar_p(lost, gained) == pytest.approx(expected, rel=1e-9)


def test_flips_churn_and_counts() -> None:
    teacher, artifact = [True, True, False, False, True], [True, False, True, False, True]
    assert st.paired_counts(teacher, artifact) == (1, 1)
    assert st.flip_rate(1, 1, 5) == 40.0
    assert st.churn("abcd", "abzd") == 25.0
    with pytest.raises(ValueError, match="no rows"):
        st.churn([], [])
    with pytest.raises(ValueError, match=r"shorter|longer"):
        st.paired_counts([True], [])


def test_bootstrap_is_seeded_and_near_tango_on_accuracy() -> None:
    generator = np.random.default_rng(0)
    teacher = generator.random(1500) < 0.9
    artifact = np.where(generator.random(1500) < 0.04, ~teacher, teacher)

    def drop(rows: np.ndarray) -> float:
        return float(100 * (teacher[rows].mean() - artifact[rows].mean()))

    first = st.paired_bootstrap(drop, 1500, seed=3, resamples=2000)
    assert first == st.paired_bootstrap(drop, 1500, seed=3, resamples=2000)
    assert first != st.paired_bootstrap(drop, 1500, seed=4, resamples=2000)
    counts = st.paired_counts(teacher.tolist(), artifact.tolist())
    assert first == pytest.approx(st.tango_interval(*counts, 1500), abs=0.25)


def test_bootstrap_of_clusters_is_wider() -> None:
    generator = np.random.default_rng(1)
    cluster = np.repeat(np.arange(40), 25)
    values = generator.normal(size=40)[cluster] + 0.1 * generator.normal(size=1000)

    def drop(rows: np.ndarray) -> float:
        return float(values[rows].mean())

    rows = st.paired_bootstrap(drop, 1000, seed=1, resamples=500)
    groups = st.paired_bootstrap(drop, 1000, seed=1, resamples=500, clusters=cluster.tolist())
    assert groups[1] - groups[0] > 3 * (rows[1] - rows[0])
    with pytest.raises(ValueError, match="clusters"):
        st.paired_bootstrap(drop, 1000, seed=1, clusters=[1, 2])


# The table of METHODS-int8, section 9: flip rate, drop, power, rows, for a margin of 1 point.
@pytest.mark.parametrize(
    ("flips", "drop", "power", "rows"),
    [
        (1, 0, 0.8, 619),
        (1, 0, 0.9, 857),
        (2, 0, 0.8, 1237),
        (3, 0, 0.8, 1855),
        (5, 0, 0.9, 4282),
        (8, 0, 0.8, 4947),
        (1, 0.3, 0.8, 1261),
        (2, 0.3, 0.9, 3494),
        (5, 0.3, 0.8, 6308),
        (1, 0.5, 0.8, 2467),
        (8, 0.5, 0.8, 19779),
    ],
)
def test_rows_to_settle_gives_the_table(flips: float, drop: float, power: float, rows: int) -> None:
    assert st.rows_to_settle(flips, drop, 1.0, power=power) == pytest.approx(rows, abs=1.01)


def test_rows_to_settle_at_the_edges() -> None:
    assert st.rows_to_settle(2, 1.0, 1.0) is None
    none_flipped = st.rows_to_settle(0, 0, 1.0)
    assert none_flipped is not None
    assert st.tango_upper(0, 0, none_flipped) <= 1.0 < st.tango_upper(0, 0, none_flipped - 2)
    assert st.rows_to_settle(5, 3.0, 1.0) is not None
    assert st.rows_to_settle(5, -1.0, 0.0) is not None  # a limit of no drop at all
    with pytest.raises(ValueError, match="margin"):
        st.rows_to_settle(1, 0, -1)


def test_rows_to_settle_has_the_power_it_promises() -> None:
    rows = st.rows_to_settle(3.0, 0.0, 1.0)
    assert rows is not None
    draws = np.random.default_rng(2).multinomial(rows, [0.015, 0.015, 0.97], size=400).tolist()
    settled = sum(st.tango_upper(lost, gained, rows) <= 1.0 for lost, gained, _ in draws) / len(draws)
    assert 0.72 <= settled <= 0.88


def test_percentile_agrees_with_numpy() -> None:
    noise = random.Random(1)
    for count in (1, 2, 3, 10, 199, 200):
        samples = [noise.gauss(0, 5) for _ in range(count)]
        for percent in (0, 1, 12.5, 50, 90, 95, 99, 99.9, 100):
            assert st.percentile(samples, percent) == pytest.approx(float(np.percentile(samples, percent)), abs=1e-12)
    with pytest.raises(ValueError, match="samples"):
        st.percentile([], 50)
    with pytest.raises(ValueError, match="percent"):
        st.percentile([1.0], 101)


def test_median_range_is_the_tabled_order_statistics() -> None:
    # David & Nagaraja, table of the sign test: n = 10 gives ranks 2 and 9 (97.85 %), n = 20 gives 6 and 15 (95.86 %).
    ten = st.median_range([float(n) for n in range(1, 11)])
    assert (ten.median, ten.low, ten.high) == (5.5, 2, 9)
    assert ten.confidence == pytest.approx(0.978516, abs=1e-6)
    twenty = st.median_range([float(n) for n in range(20, 0, -1)])
    assert (twenty.low, twenty.high, round(twenty.confidence, 4)) == (6, 15, 0.9586)
    few = st.median_range([3.0, 1.0, 2.0])
    assert (few.low, few.median, few.high, few.confidence) == (1, 2, 3, 0.75)
    assert st.median_range([7.0]) == st.MedianRange(7.0, 7.0, 7.0, 0.0)
    with pytest.raises(ValueError, match="samples"):
        st.median_range([])


def test_median_range_agrees_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    for count in range(2, 60):
        found = st.median_range([float(n) for n in range(1, count + 1)])
        depth = int(found.low)
        coverage = 1 - 2 * stats.binom.cdf(depth - 1, count, 0.5)
        assert found.confidence == pytest.approx(coverage, abs=1e-9)
        if depth > 1:
            assert coverage >= 0.95
        assert depth + 1 > count / 2 or 1 - 2 * stats.binom.cdf(depth, count, 0.5) < 0.95


def test_median_of_ratios_pairs_the_rounds() -> None:
    teacher, artifact = [10.0, 20.0, 40.0], [1.0, 2.0, 4.0]  # a machine that slows down by half each round
    assert st.median_of_ratios(teacher, artifact) == st.MedianRange(10.0, 10.0, 10.0, 0.75)
    with pytest.raises(ValueError, match="positive"):
        st.median_of_ratios([1.0], [0.0])
    with pytest.raises(ValueError, match=r"shorter|longer"):
        st.median_of_ratios([1.0], [1.0, 1.0])


def test_histogram_counts_every_time_once() -> None:
    noise = random.Random(2)
    fast, slow = [noise.lognormvariate(0, 0.3) for _ in range(300)], [noise.lognormvariate(2, 0.3) for _ in range(200)]
    edges, artifact, teacher = st.histogram(fast, slow, bins=40)
    assert (len(edges), len(artifact), len(teacher or ())) == (41, 40, 40)
    assert (sum(artifact), sum(teacher or ())) == (300, 200)
    assert edges == sorted(edges)
    assert edges[0] == min(fast)
    assert edges[-1] == max(slow)
    expected, _ = np.histogram(fast, edges)
    assert artifact == expected.tolist()
    assert sum(st.histogram([2.0, 2.0], None)[1]) == 2
    assert st.histogram([2.0], None)[2] is None
    with pytest.raises(ValueError, match="above 0"):
        st.histogram([0.0], None)
