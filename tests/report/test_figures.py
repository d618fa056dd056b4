"""How figures are written."""

from __future__ import annotations

import pytest

from edgekit.report import charts, figures


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (figures.digits(0.80251), "0.803"),
        (figures.digits(9.996), "10.0"),
        (figures.digits(1340.4), "1,340"),
        (figures.digits(-0.05), "-0.0500"),
        (figures.digits(0), "0"),
        (figures.digits(123456), "123,000"),
        (figures.size(4_812_345), "4.81 MB"),
        (figures.size(999_999), "1.00 MB"),
        (figures.size(512), "512 bytes"),
        (figures.size(1_500), "1.50 kB"),
        (figures.size(4_294_967_296), "4.29 GB"),
        (figures.amount(18_420_117), "18.4 M"),
        (figures.amount(950), "950"),
        (figures.milliseconds(0.0123), "12.3 µs"),
        (figures.milliseconds(41.72), "41.7 ms"),
        (figures.milliseconds(12_340), "12.3 s"),
        (figures.milliseconds(0), "0 ms"),
        (figures.duration(3.14), "3.1 s"),
        (figures.duration(59.97), "1 min 00 s"),
        (figures.duration(421.6), "7 min 02 s"),
        (figures.duration(7_384), "2 h 03 min"),
        (figures.points(-0.004), "0.00 points"),
        (figures.points(-0.31), "−0.31 points"),
        (figures.interval(-0.2, 1), "−0.20 to 1.00"),
        (figures.ratio(7.258), "7.26×"),
        (figures.with_unit(None, "ms"), "–"),
        (figures.with_unit(5, "rows"), "5.00 rows"),
        (figures.fact({"a": [1, 2.5, None, True], "b": {}}), "a 1, 2.5, none, yes, b none"),
        (figures.named("p50_ms", 1.5), "1.50 ms"),
        (figures.named("scale", 0.25), "0.25"),
        (figures.label("dev_p50_ms"), "dev p50"),
        (figures.clean("a\tb\x1bc\u202ed\u200de"), "a b\ufffdc\ufffdd\u200de"),
    ],
)
def test_figures(shown: str, expected: str) -> None:
    assert shown == expected


def test_ticks_are_round_and_few() -> None:
    for low, high in ((0.3, 0.9), (0.3, 30.0), (1.0, 1.02), (0.001, 90_000.0)):
        ticks = charts._log_ticks(low, high)
        assert 1 <= len(ticks) <= 7
        assert all(low <= tick <= high for tick in ticks)
    for span in (0.001, 0.3, 1.0, 7.0, 150.0):
        assert 1.99 <= span / charts._step(span) <= 5.01
