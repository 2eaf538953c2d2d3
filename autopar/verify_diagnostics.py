"""Expected diagnostics in the comments of a test, as `mlir-opt --verify-diagnostics` has them.

// expected-error@+1 {{part of the message}}
// expected-remark@below {{…}}   expected-error @-2 {{…}}   expected-error-re {{a {{[0-9]+}} b}}
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .dialects.diagnostics import Diagnostic, location_of, user_frame

_EXPECTED = re.compile(
    r"expected-(?P<severity>error|warning|remark|note)(?P<re>-re)? *"
    r"(?:@(?P<where>[+-]\d+|above|below|unknown))? *(?P<count>\d+)? *"
    r"\{\{(?P<text>.*?)\}\}(?!\})"
)
_EXPECTED_RE = re.compile(r"expected-(?:error|warning|remark|note)-re[^{]*\{\{(?P<text>.*)\}\}")


@dataclass
class Expectation:
    """One `expected-…` comment."""

    severity: str
    line: int | None
    """The line that the diagnostic must be on; None: anywhere or nowhere."""
    text: str
    pattern: str
    at: int
    """The line of the comment."""
    met: bool = False


def _regex(text: str) -> str:
    """The pattern of an `-re` text: what is in inner double braces is a regular expression."""
    parts = re.split(r"\{\{(.*?)\}\}", text)
    return "".join(part if i % 2 else re.escape(part) for i, part in enumerate(parts))


def read_expectations(text: str) -> list[Expectation]:
    """The expectations in a text."""
    found: list[Expectation] = []
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        for match in _EXPECTED.finditer(line):
            where = match["where"]
            target: int | None = number
            if where == "unknown":
                target = None
            elif where in ("above", "below"):
                step = -1 if where == "above" else 1
                target = number + step
                while 0 < target <= len(lines) and "expected-" in lines[target - 1]:
                    target += step
            elif where:
                target = number + int(where)
            pattern = re.escape(match["text"])
            if match["re"] and (whole := _EXPECTED_RE.search(line)):
                pattern = _regex(whole["text"])
            count = int(match["count"] or 1)
            found += [
                Expectation(match["severity"], target, match["text"], pattern, number)
                for _ in range(count)
            ]
    return found


def _line_of(diagnostic: Diagnostic, filename: str) -> int | None:
    location = location_of(diagnostic.place)
    frame = user_frame(location) if location is not None else None
    if frame is None or frame.filename.data != filename:
        return None
    return max(frame.line.data, 1)


def check_expectations(
    text: str, filename: str, diagnostics: Sequence[Diagnostic], *, strict_remarks: bool
) -> list[str]:
    """What is wrong: diagnostics that were not expected, expectations that were not met.

    Notes need not be expected, nor remarks unless `strict_remarks` or the text expects some.
    """
    expectations = read_expectations(text)
    strict_remarks |= any(e.severity == "remark" for e in expectations)
    problems: list[str] = []
    for diagnostic in diagnostics:
        if not _meet(expectations, diagnostic, filename):
            required = diagnostic.severity == "error" or strict_remarks
            if required:
                problems.append(
                    diagnostic.text.replace(
                        f"{diagnostic.severity}: ", f"error: unexpected {diagnostic.severity}: ", 1
                    )
                )
        for note in diagnostic.notes:
            _meet(expectations, note, filename)
    problems += [
        f'{filename}:{e.at}:1: error: expected {e.severity} "{e.text}" was not produced'
        for e in expectations
        if not e.met
    ]
    return problems


def _meet(expectations: list[Expectation], diagnostic: Diagnostic, filename: str) -> bool:
    line = _line_of(diagnostic, filename)
    for expectation in expectations:
        if (
            not expectation.met
            and expectation.severity == diagnostic.severity
            and (expectation.line is None or expectation.line == line)
            and re.search(expectation.pattern, diagnostic.message)
        ):
            expectation.met = True
            return True
    return False
