"""JUnit XML: the mapping of verdicts, and the rules of Ant's schema (the strictest of the common ones)."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest
from manifests import NO_ACCELERATOR, accuracy, example, example_arm64

from edgekit.manifest import Check, Gate, Limits, Manifest, Verdict
from edgekit.report import junit
from edgekit.verdict import rejudge

SUITE = {"id", "name", "package", "hostname", "timestamp", "tests", "failures", "errors", "skipped", "time"}


def suites(*items: Manifest) -> list[ET.Element]:
    text = junit.render([(item.target_name, item, rejudge(item)) for item in items])
    assert text.startswith("<?xml version='1.0' encoding='utf-8'?>\n<testsuites")
    root = ET.fromstring(text)
    check_schema(root)
    return list(root)


def check_schema(root: ET.Element) -> None:
    """Checks what JUnit.xsd of Ant's task asks: names, order, required attributes, types."""
    assert (root.tag, root.attrib) == ("testsuites", {})
    for number, suite in enumerate(root):
        assert (suite.tag, set(suite.attrib)) == ("testsuite", SUITE)
        assert suite.get("id") == str(number)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.get("timestamp", ""))
        tags = [child.tag for child in suite]
        assert tags == ["properties", *["testcase"] * (len(tags) - 3), "system-out", "system-err"]
        for item in suite[0]:
            assert (item.tag, set(item.attrib), len(item)) == ("property", {"name", "value"}, 0)
        cases = suite.findall("testcase")
        for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(suite.get(name, "")) == sum(len(case.findall(tag)) for case in cases)
        assert int(suite.get("tests", "")) == len(cases)
        for case in cases:
            assert set(case.attrib) == {"name", "classname", "time"}
            assert [child.tag for child in case] in ([], ["failure"], ["error"], ["skipped"])
            for child in case:
                assert set(child.attrib) == {"message", "type"}
        for token in [suite.get("name", ""), *(case.get("name", "") for case in cases)]:
            assert token == " ".join(token.split()) != ""


def test_one_suite_a_target_one_case_a_check() -> None:
    first, second = suites(example(), example_arm64())
    assert (first.get("name"), first.get("tests"), first.get("failures")) == ("x86-64", "4", "0")
    assert second.get("name") == "arm64"
    properties = {item.get("name"): item.get("value") for item in second[0]}
    assert properties["provenance.accuracy"] == "simulated"
    assert properties["provenance.latency"] == "not measured: qemu's time is not a device's time"
    assert properties["verdict"] == "pass"


def test_verdicts_are_mapped() -> None:
    limits = Limits(max_drop=1.0, confidence=0.95, max_latency_ms=5, max_bytes=1000)
    [suite] = suites(example_arm64(limits=limits, accuracy=accuracy(6, 3, 500, 464)))
    found = {case.get("name"): [(child.tag, child.get("type")) for child in case] for case in suite.findall("testcase")}
    assert found == {
        "teacher": [],
        "accuracy drop": [("error", "inconclusive")],
        "latency p95": [("skipped", "not-measured")],
        "model size": [("failure", "fail")],
    }
    [suite] = suites(example(accuracy=accuracy(0, 0, 1000, 400, floor=50.0)))
    assert [child.get("type") for case in suite.findall("testcase") for child in case] == ["invalid", "invalid"]
    message = suite.findall("testcase")[0][0].get("message", "")
    assert message.startswith("teacher 40.00 %, limit 50.00 %: the teacher's accuracy of 40.00 % is not above")


@pytest.mark.parametrize("bad", ["a\x00b\x1b[31m", "<&>\"'", "]]>", "\ufffe\U0001f600", "  "])
def test_hostile_text_is_still_xml(bad: str) -> None:
    item = example()
    gate = Gate(Verdict.FAIL, Limits(), (Check(bad, 1.0, 0.0, bad, Verdict.FAIL, bad),))
    root = ET.fromstring(junit.render([(bad, item, gate)]))
    check_schema(root)


def test_no_targets_and_no_checks() -> None:
    assert suites() == []
    [suite] = suites(
        example(
            limits=Limits(),
            accuracy=accuracy(floor=None),
            unmeasured={"instructions": "no", **NO_ACCELERATOR, "accuracy.floor": "unknown"},
        )
    )
    assert suite.get("tests") == "0"
