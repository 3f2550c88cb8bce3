"""``junit.xml``: a suite for each tier and part, a case for each clause. Made from records alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from xml.etree import ElementTree

from mqcore_conformance.report._records import Record, latest

MESSAGE_CHARS_MAX = 500


def junit(records: Iterable[Record]) -> str:
    """Return the report as JUnit XML.

    FAIL, XPASS and LIVENESS are failures, ERROR is an error, everything else but PASS is skipped with its reason.
    """
    suites = ElementTree.Element("testsuites", name="mqcore conformance")
    by_suite: dict[str, ElementTree.Element] = {}
    for record in latest(records):
        if record["kind"] == "run":
            continue
        name = _printable(f"{record['tier']}/{record['part'] if record['kind'] == 'check' else record['storage']}")
        suite = by_suite.get(name)
        if suite is None:
            suite = by_suite[name] = ElementTree.SubElement(suites, "testsuite", name=name)
        cases = list(_cases(record))
        for clause, status, text in cases:
            case = ElementTree.SubElement(
                suite,
                "testcase",
                classname=_printable(record["name"]),
                name=_printable(clause),
                time=f"{record['seconds'] / max(1, len(cases)):.3f}",
            )
            _judge(case, status, text)
    for element in (suites, *by_suite.values()):
        cases_below = list(element.iter("testcase"))
        element.set("tests", str(len(cases_below)))
        for tag, attribute in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
            element.set(attribute, str(sum(case.find(tag) is not None for case in cases_below)))
        element.set("time", f"{sum(float(case.get('time', '0')) for case in cases_below):.3f}")
    ElementTree.indent(suites, " ")
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suites, encoding="unicode") + "\n"


def _cases(record: Record) -> Iterator[tuple[str, str, str]]:
    """Give clause, status and text of each case of a record."""
    if record["kind"] == "check":
        yield record["clause"], record["status"], record["text"]
        return
    texts: dict[str, str] = {}
    for failure in record["failures"]:
        for one in failure["violations"]:
            texts.setdefault(one["clause"], f"{one['text']}; replay: {failure['repro']}")
    for clause, status in record["clauses"].items():
        yield clause, status, texts.get(clause) or str(record["reason"])


def _judge(case: ElementTree.Element, status: str, text: str) -> None:
    message = _printable(text)[:MESSAGE_CHARS_MAX]
    if status in ("FAIL", "LIVENESS", "XPASS"):
        ElementTree.SubElement(case, "failure", type=status, message=message or status)
    elif status == "ERROR":
        ElementTree.SubElement(case, "error", type=status, message=message or status)
    elif status != "PASS":
        ElementTree.SubElement(case, "skipped", message=f"{status}: {message}" if message else status)


def _printable(text: str) -> str:
    """Return text that XML can hold: no control characters, no halves of characters."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
