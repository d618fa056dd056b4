"""A manifest as one self-contained page.

The page asks for nothing: styles and drawings are inline, there is no script, and its content security policy forbids
the rest, so it reads the same from a mail, a CI artifact or a phone without a network. Everything in it comes from the
manifest, so the same manifest gives the same bytes. Names of labels, files and devices are hostile input: jinja2
escapes every expression, and `clean` takes out what is left (control and direction characters).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jinja2

from edgekit.manifest import SECTIONS, Manifest
from edgekit.report import charts, figures

TEMPLATE = "report.html.jinja"


def render(manifest: Manifest) -> str:
    """Returns the page.

    Args:
        manifest: what to show; nothing else is read.
    """
    acc, lat = manifest.accuracy, manifest.latency
    drawn = lat.histogram if lat is not None else None
    taken = {name: getattr(manifest, name) for name in SECTIONS}
    longest = max((step.seconds for step in manifest.lineage), default=0.0)
    return (
        _environment()
        .get_template(TEMPLATE)
        .render(
            m=manifest,
            proxy=figures.PROXY,
            drop_chart=None if acc is None else charts.drop_chart(acc, manifest.gate.limits),
            latency_chart=None
            if lat is None or drawn is None
            else charts.latency_chart(drawn, lat.p50_ms, lat.teacher_p50_ms),
            taken=taken,
            longest_seconds=longest,
            largest_bytes=max((step.bytes or 0 for step in manifest.lineage), default=0),
            total_seconds=sum(step.seconds for step in manifest.lineage),
            spent_seconds=sum(step.seconds for step in manifest.lineage if not step.cached),
            candidate_figures=sorted({name for candidate in manifest.candidates for name in candidate.figures}),
        )
    )


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("edgekit.report", package_path=""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    shows: tuple[Callable[..., str], ...] = (
        figures.amount,
        figures.digits,
        figures.duration,
        figures.exact,
        figures.fact,
        figures.label,
        figures.milliseconds,
        figures.percent,
        figures.points,
        figures.ratio,
        figures.size,
    )
    for show in shows:
        environment.filters[show.__name__] = _narrow(show)
    environment.globals |= {
        "named": _narrow(figures.named),
        "with_unit": _narrow(figures.with_unit),
        "share": charts.share,
        "marks": figures.MARKS,
        "interval_of": lambda ends: figures.interval(*ends),
    }
    return environment


def _finalize(value: Any) -> Any:
    """Cleans every plain string on its way into the page; markup and numbers pass."""
    return figures.clean(value) if type(value) is str else value


def _narrow(show: Callable[..., str]) -> Callable[..., str]:
    """Returns a function that keeps a number and its unit on one line, a narrow space apart."""

    @functools.wraps(show)
    def shown(*arguments: Any) -> str:
        text = show(*arguments)
        number, space, unit = text.partition(" ")
        short = space and number[:1] in "−0123456789" and unit in _UNITS
        return f"{number}\u202f{unit}" if short else text

    return shown


_UNITS = ("%", "ms", "µs", "s", "MB", "kB", "GB", "bytes", "k", "M", "G", "points")
