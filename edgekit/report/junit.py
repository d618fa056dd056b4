"""A gate as JUnit XML, for the test page of a CI: one suite a target, one case a check.

fail is a failure (the artifact was judged and is not good enough); invalid and inconclusive are errors (it could not be
judged); not-measured is skipped (nobody looked). A skipped case leaves the page green, so a CI trusts the exit code of
`edgekit gate`, which is 4 then.

The form is that of Ant's JUnit task, which is the strictest of the schemas about: every attribute it asks is there, in
its order, with empty `system-out` and `system-err`, and the time without a zone.
"""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from collections.abc import Sequence

from edgekit.manifest import Check, Gate, Manifest, Verdict
from edgekit.report.figures import clean, with_unit

_ELEMENTS = {
    Verdict.FAIL: "failure",
    Verdict.INVALID: "error",
    Verdict.INCONCLUSIVE: "error",
    Verdict.NOT_MEASURED: "skipped",
}


def render(judged: Sequence[tuple[str, Manifest, Gate]]) -> str:
    """Returns the XML document.

    Args:
        judged: target, manifest and gate of each, as `verdict.judge_dist` returns them.
    """
    root = ET.Element("testsuites")
    for number, (target, manifest, gate) in enumerate(judged):
        root.append(_suite(number, target, manifest, gate))
    ET.indent(root)
    text = io.BytesIO()
    ET.ElementTree(root).write(text, encoding="utf-8", xml_declaration=True)
    return text.getvalue().decode("utf-8") + "\n"


def _suite(number: int, target: str, manifest: Manifest, gate: Gate) -> ET.Element:
    elements = [_ELEMENTS.get(check.verdict) for check in gate.checks]
    suite = ET.Element(
        "testsuite",
        {
            "id": str(number),
            "name": _token(target),
            "package": "edgekit.gate",
            "hostname": "localhost",
            "timestamp": manifest.created.removesuffix("Z"),
            "tests": str(len(gate.checks)),
            "failures": str(elements.count("failure")),
            "errors": str(elements.count("error")),
            "skipped": str(elements.count("skipped")),
            "time": f"{sum(step.seconds for step in manifest.lineage):.3f}",
        },
    )
    properties = ET.SubElement(suite, "properties")
    for name, value in _properties(manifest, gate).items():
        ET.SubElement(properties, "property", {"name": name, "value": clean(value)})
    for check in gate.checks:
        suite.append(_case(target, check))
    ET.SubElement(suite, "system-out").text = ""
    ET.SubElement(suite, "system-err").text = ""
    return suite


def _case(target: str, check: Check) -> ET.Element:
    case = ET.Element(
        "testcase", {"name": _token(check.name), "classname": f"edgekit.gate.{_token(target)}", "time": "0"}
    )
    element = _ELEMENTS.get(check.verdict)
    if element is not None:
        value, limit = with_unit(check.value, check.unit), with_unit(check.limit, check.unit)
        message = clean(f"{check.name} {value}, limit {limit}: {check.reason}")
        found = ET.SubElement(case, element, {"message": message, "type": str(check.verdict)})
        found.text = f"{message} ({check.provenance})" if check.provenance else message
    return case


def _properties(manifest: Manifest, gate: Gate) -> dict[str, str]:
    sections = {
        "accuracy": manifest.accuracy,
        "latency": manifest.latency,
        "instructions": manifest.instructions,
        "memory": manifest.memory,
        "cycles": manifest.cycles,
        "coverage": manifest.coverage,
        "agreement": manifest.agreement,
    }
    taken = {
        f"provenance.{name}": str(section.provenance) if section else f"not measured: {manifest.unmeasured[name]}"
        for name, section in sections.items()
    }
    return {
        "edgekit": manifest.edgekit,
        "verdict": str(gate.verdict),
        "task": manifest.task,
        "model.sha256": manifest.model.sha256,
        "model.bytes": str(manifest.model.bytes),
        **taken,
    }


def _token(text: str) -> str:
    return " ".join(clean(text).split()) or "unnamed"
