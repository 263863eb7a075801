"""Formats gate verdicts as JUnit XML, which CI systems display as test results."""

from __future__ import annotations

from xml.etree import ElementTree

from runner_compare.release_gate.render.text import describe_check, format_difference, sort_checks
from runner_compare.release_gate.verdicts import GateReport, GateVerdict, Tier

# how a test suite names what a verdict is
ELEMENTS = {GateVerdict.no_go: "failure", GateVerdict.unpaired: "error", GateVerdict.ask: "skipped"}


def format_junit(report: GateReport) -> str:
    """Return JUnit XML with one test case per candidate."""
    verdicts = [candidate.verdict for candidate in report.candidates]
    suite = ElementTree.Element(
        "testsuite",
        name="runner-compare gate",
        tests=str(len(verdicts)),
        failures=str(verdicts.count(GateVerdict.no_go)),
        errors=str(verdicts.count(GateVerdict.unpaired)),
        skipped=str(verdicts.count(GateVerdict.ask)),
    )
    for candidate in report.candidates:
        case = ElementTree.SubElement(suite, "testcase", classname="gate", name=candidate.name)
        if (element := ELEMENTS.get(candidate.verdict)) is not None:
            decisive = (candidate.verdict, Tier.must)
            told = [check for check in sort_checks(candidate) if (check.verdict, check.tier) == decisive]
            found = (f"{format_difference(check)} {describe_check(check)}".strip() for check in told)
            message = f"{candidate.verdict}: {'; '.join(found)}"
            ElementTree.SubElement(case, element, message=message)
    return _to_xml(suite)


def format_error_junit(message: str) -> str:
    """Return JUnit XML with a single error, for a gate that could not run."""
    suite = ElementTree.Element(
        "testsuite", name="runner-compare gate", tests="1", failures="0", errors="1", skipped="0"
    )
    case = ElementTree.SubElement(suite, "testcase", classname="gate", name="the gate could run")
    ElementTree.SubElement(case, "error", message=message)
    return _to_xml(suite)


def _to_xml(suite: ElementTree.Element) -> str:
    ElementTree.indent(suite)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"
