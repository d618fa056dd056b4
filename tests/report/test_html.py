"""The page: everything of the manifest is in it, nothing hostile works in it, and Chromium draws it."""

from __future__ import annotations

import dataclasses
import re
import shutil
import struct
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from manifests import NO_ACCELERATOR, accuracy, candidates, example, example_arm64, latency, lineage

from edgekit.manifest import Limits, Manifest
from edgekit.measured import Coverage
from edgekit.provenance import Provenance
from edgekit.report import html

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7 * 7 }}\x1b[31m\u202e"


def hostile() -> Manifest:
    """Returns a manifest with markup in every kind of text that comes from outside."""
    base = example(
        "</title><script>1</script>",
        accuracy=accuracy(device=HOSTILE, metric=HOSTILE),
        latency=latency(reason=HOSTILE),
        labels=(HOSTILE, "javascript:alert(1)"),
        recipe={HOSTILE: [HOSTILE, {HOSTILE: 1}]},
        task=HOSTILE,
        unmeasured=dict.fromkeys(("instructions", "cycles", "coverage", "agreement"), HOSTILE),
        lineage=tuple(
            dataclasses.replace(step, stage=HOSTILE, reason=HOSTILE, facts={HOSTILE: HOSTILE}) for step in lineage()
        ),
        candidates=tuple(
            dataclasses.replace(item, name=HOSTILE, reason=HOSTILE, figures={HOSTILE: HOSTILE}) for item in candidates()
        ),
    )
    return dataclasses.replace(base, model=dataclasses.replace(base.model, path=f"a/{HOSTILE}", format=HOSTILE))


class Page(HTMLParser):
    """Collects tags, attributes and visible text, and checks that tags close in order."""

    VOID = frozenset({"meta", "link", "br", "img"})
    SELF_CLOSING = frozenset({"rect", "line", "circle"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"repeated attribute in <{tag}>"
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in self.SELF_CLOSING
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data

    def words(self) -> str:
        return " ".join(self.text.split())


def test_shows_what_is_in_the_manifest() -> None:
    words = Page(html.render(example())).words()
    for part in (
        "x86-64",
        "pass",
        "banking77-minilm-l6",
        "text-classification",
        "92.89 %",
        "92.11 %",
        "0.78 points",
        "95 %: 0.33 to 1.28",
        "38 lost, 14 gained",
        "7.26× faster",
        "4.81 MB",
        "3 rows of the test split are also in train",
        "u8 × s8, pair-bounded",
        "option sparsity changed",
        "opset 17",
        "onnxruntime 1.18 or newer",
        "lost_or_stolen_card",
        "distill.epochs 6",
    ):
        assert part in words, part
    for provenance_of in ("accuracy", "latency", "memory"):
        assert re.search(rf"{provenance_of}\s*● measured", words), provenance_of
    for step in example().lineage:
        assert step.stage in words


def test_shows_why_a_figure_is_missing() -> None:
    item = example_arm64(
        accuracy=accuracy(
            6,
            3,
            500,
            464,
            student_fp32=None,
            flips=None,
            provenance=Provenance.ESTIMATED,
            reason="ran on the host's kernels",
        ),
        unmeasured={
            "latency": "qemu's time is not a device's time",
            "memory": "in qemu's own",
            **NO_ACCELERATOR,
            "accuracy.student_fp32": "was not asked for",
            "accuracy.flips": "not for this metric",
        },
    )
    words = Page(html.render(item)).words()
    assert "Not measured: qemu's time is not a device's time" in words
    assert "not measured: was not asked for" in words
    assert "not measured: not for this metric" in words
    assert "○ estimated" in words
    assert "ran on the host's kernels" in words
    assert "a proxy for time" in words
    sections = ("accuracy", "latency", "memory", "instructions", "cycles", "coverage", "agreement")
    nothing = example(
        "npu",
        accuracy=None,
        latency=None,
        memory=None,
        lineage=(),
        candidates=(),
        limits=Limits(),
        unmeasured=dict.fromkeys(sections, "no board"),
    )
    words = Page(html.render(nothing)).words()
    assert words.count("no board") >= 5
    assert "No limit was given, so nothing was checked." in words


@pytest.mark.parametrize(
    "changes",
    [
        {"latency": latency(histogram=None, speedup=None, speedup_low=None, speedup_high=None, teacher_p50_ms=None)},
        {"latency": latency(cold_ms=0.0, p50_ms=0.0)},
        {"accuracy": accuracy(0, 0, 10, 10)},
        {"coverage": Coverage("HTP", 0, 0, (), Provenance.SIMULATED, "")},
        {"accuracy": accuracy(0, 300, 1000, 600), "limits": Limits(max_drop=0.0)},
    ],
)
def test_draws_odd_figures(changes: dict[str, Any]) -> None:
    unmeasured = dict.fromkeys(("instructions", "cycles", "coverage", "agreement"), "no")
    if "coverage" in changes:
        del unmeasured["coverage"]
    if changes.get("latency") is not None and changes["latency"].histogram is None:
        unmeasured |= {f"latency.{name}": "no" for name in ("histogram", "speedup", "teacher_p50_ms")}
    text = html.render(example(unmeasured=unmeasured, **changes))
    assert Page(text).tags
    assert not re.search(r"\b(nan|inf|none)\b%?\"", text.split("</style>")[1])


def test_hostile_text_stays_text() -> None:
    text = html.render(hostile())
    page = Page(text)
    assert not {tag for tag, _ in page.tags} & {"script", "img", "iframe", "object", "embed", "form", "base"}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
    assert "<script>alert(1)</script>" in page.text  # shown, not run
    assert "{{ 7 * 7 }}" in page.text
    assert not re.search("[\x00-\x09\x0b-\x1f\u202a-\u202e]", text)


@pytest.mark.parametrize("item", [example(), example_arm64(), hostile()], ids=["x86-64", "arm64", "hostile"])
def test_loads_nothing(item: Manifest) -> None:
    text = html.render(item)
    for tag, attributes in Page(text).tags:
        for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            assert attributes.get(name) in (None, "data:,"), tag
    style = text.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert "http:" not in text
    assert "https:" not in text
    assert "default-src 'none'" in text


def test_same_manifest_same_bytes() -> None:
    assert html.render(example()) == html.render(Manifest.from_json(example().to_json()))


def test_can_be_read_without_eyes_and_on_a_phone() -> None:
    page = Page(html.render(example()))
    assert ("html", {"lang": "en"}) in page.tags
    assert any(attributes.get("name") == "viewport" for _, attributes in page.tags)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.tags:
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in ids
        if tag == "svg" and "y" not in attributes:  # the drawing inside a drawing is part of it
            assert attributes.get("role") == "img" or attributes.get("aria-hidden") == "true"
        if tag == "th":
            assert attributes.get("scope") in ("row", "col")


def test_colours_have_contrast() -> None:
    style = html.render(example()).split("<style>")[1].split("</style>")[0]
    for theme in re.findall(r":root \{(.*?)\}", style, re.DOTALL)[:2]:
        colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", theme))
        pairs = [(name, "paper") for name in ("ink", "soft", "pass", "fail", "invalid", "open")]
        pairs += [(name, f"{name}-bg") for name in ("pass", "fail", "invalid", "open")] + [("soft", "raised")]
        for front, back in pairs:
            assert contrast(colours[front], colours[back]) >= 4.5, (front, back)


def contrast(one: str, other: str) -> float:
    """Returns the contrast ratio of two colours, WCAG 2.2."""

    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def chromium(tmp_path: Path, page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    return subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--no-first-run",
            "--hide-scrollbars",
            "--enable-logging=stderr",
            f"--user-data-dir={tmp_path / 'profile'}",
            *options,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("item", [example(), example_arm64(), hostile()], ids=["x86-64", "arm64", "hostile"])
def test_chromium_draws_it(tmp_path: Path, item: Manifest) -> None:
    page, picture = tmp_path / "report.html", tmp_path / "report.png"
    page.write_text(html.render(item), encoding="utf-8")
    done = chromium(tmp_path, page, "--window-size=1200,1600", f"--screenshot={picture}")
    assert "CONSOLE" not in done.stderr
    data = picture.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == (1200, 1600)
    assert len(data) > 50_000  # an empty page of this size is some 10 kB


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("item", [example(), hostile()], ids=["x86-64", "hostile"])
def test_fits_a_phone(tmp_path: Path, item: Manifest) -> None:
    # A frame of 390 px, for headless Chromium's own window is never narrower than 500 px; the frame's script measures.
    (tmp_path / "report.html").write_text(html.render(item), encoding="utf-8")
    frame = tmp_path / "frame.html"
    frame.write_text(
        '<iframe id="f" src="report.html" style="width:390px;height:800px;border:0"></iframe><script>onload = () => {'
        "const root = document.getElementById('f').contentDocument.documentElement;"
        "document.title = root.scrollWidth + ' of ' + root.clientWidth;}</script>",
        encoding="utf-8",
    )
    done = chromium(tmp_path, frame, "--allow-file-access-from-files", "--virtual-time-budget=5000", "--dump-dom")
    found = re.search(r"<title>(\d+) of (\d+)</title>", done.stdout)
    assert found, done.stdout
    assert found[2] == "390"
    assert found[1] == "390", "the page is wider than the phone"
