"""How a figure is written: three significant digits, a unit, and nothing that a terminal or a page would obey.

All reports use these functions, so that a size reads alike in the terminal, in the page and in JUnit.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable

from edgekit.provenance import Provenance

MARKS = {Provenance.MEASURED: "●", Provenance.SIMULATED: "◐", Provenance.ESTIMATED: "○"}
LEGEND = "  ".join(f"{mark} {provenance}" for provenance, mark in MARKS.items())
LISTED = 24
"""Items of a list that are told; a model may have a hundred labels."""
PROXY = "Instruction counts are exact within one runtime and precision; across precisions they are a proxy for time."


def clean(text: str) -> str:
    """Returns text without control and direction characters: a label must not move a cursor or reverse a line."""
    return text if text.isascii() and text.isprintable() else "".join(map(_clean_letter, text))


def _clean_letter(letter: str) -> str:
    if letter in "\t\r\n":
        return " "
    if letter in "\u200c\u200d":  # the joiners, which Persian, Hindi and emoji are spelt with
        return letter
    code = ord(letter)
    no_character = code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF  # XML does not allow them
    return "\ufffd" if no_character or unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Co") else letter


def digits(value: float, significant: int = 3) -> str:
    """Returns a number with that many significant digits, never in powers of ten: 0.803, 41.7, 212, 1,340."""
    if value == 0:
        return "0"
    places = significant - 1 - math.floor(math.log10(abs(value)))
    rounded = round(value, places)
    # Rounding may carry into the next decade: 9.996 is 10.0, not 10.00.
    places = significant - 1 - math.floor(math.log10(abs(rounded)))
    return f"{rounded:,.{max(0, places)}f}"


def size(count: float) -> str:
    """Returns bytes as kB, MB or GB (powers of ten)."""
    return _scaled(count, (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)), "bytes")


def amount(count: float) -> str:
    """Returns a large count as thousand (k), million (M) or billion (G)."""
    return _scaled(count, (("G", 1e9), ("M", 1e6), ("k", 1e3)), "")


def exact(count: float) -> str:
    """Returns a whole number with all its digits."""
    return f"{count:,.0f}"


def milliseconds(value: float) -> str:
    """Returns a time in µs, ms or s, from milliseconds."""
    if value >= 10_000:
        return f"{digits(value / 1000)} s"
    return f"{digits(value * 1000)} µs" if 0 < value < 0.1 else f"{digits(value)} ms"


def duration(seconds: float) -> str:
    """Returns a time of minutes or seconds, from seconds."""
    if seconds >= 3600:
        return f"{int(seconds) // 3600} h {int(seconds) % 3600 // 60:02d} min"
    if round(seconds) >= 60:
        return f"{round(seconds) // 60} min {round(seconds) % 60:02d} s"
    return f"{seconds:.1f} s"


def percent(value: float) -> str:
    """Returns a percentage with two decimals."""
    return f"{value:.2f} %"


def points(value: float) -> str:
    """Returns a difference in points with its sign where it is negative."""
    return f"{signed(value)} points"


def interval(low: float, high: float) -> str:
    """Returns an interval of points, without the unit."""
    return f"{signed(low)} to {signed(high)}"


def ratio(value: float) -> str:
    """Returns a factor."""
    return f"{digits(value)}×"


def with_unit(value: float | None, unit: str) -> str:
    """Returns the value or limit of a check; a dash for None."""
    if value is None:
        return "–"
    match unit:
        case "%":
            return percent(value)
        case "points":
            return points(value)
        case "ms":
            return milliseconds(value)
        case "bytes":
            return size(value)
        case "instructions":
            return amount(value)
        case "x":
            return ratio(value)
    return f"{digits(value)} {unit}".strip()


def fact(value: object) -> str:
    """Returns a free-form value (a fact of a stage, an option) on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{clean(str(name))} {fact(item)}" for name, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        more = f" and {len(value) - LISTED:,} more" if len(value) > LISTED else ""
        return (", ".join(fact(item) for item in value[:LISTED]) or "none") + more
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    if isinstance(value, float):
        text = digits(value, 4)
        return text.rstrip("0").rstrip(".") if "." in text else text
    return exact(value) if isinstance(value, int) else clean(str(value))


def named(name: str, value: object) -> str:
    """Returns a figure whose name ends in its unit (`p50_ms`, `file_bytes`), other values as `fact`."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        for ending, show in _BY_NAME.items():
            if name.endswith(ending):
                return show(value)
    return fact(value)


def label(name: str) -> str:
    """Returns the name of a figure or fact for reading: without its unit and its underscores."""
    for ending in ("_ms", "_bytes", "_seconds", "_pct", "_points"):
        name = name.removesuffix(ending)
    return clean(name).replace("_", " ")


_BY_NAME: dict[str, Callable[[float], str]] = {
    "_ms": milliseconds,
    "bytes": size,
    "_seconds": duration,
    "_pct": percent,
    "accuracy": percent,
    "_points": points,
    "instructions": amount,
}


def signed(value: float) -> str:
    """Returns a number with two decimals, its sign where it is negative, and none for what rounds to zero."""
    text = f"{value:.2f}"
    return "0.00" if text == "-0.00" else text.replace("-", "−")


def _scaled(count: float, scales: tuple[tuple[str, float], ...], plain: str) -> str:
    for unit, scale in scales:
        if abs(count) >= scale * 0.9995:
            return f"{digits(count / scale)} {unit}"
    return f"{exact(count)} {plain}".strip()
