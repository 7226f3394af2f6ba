"""GK006: keys that ask for different things, and GK004 where one of two is missing, found in the
text's values.

These checks read the raw values, so that a plan with another fault still shows them. Each is a
generator of findings, named as its rule; what has the wrong type is left to the schema.
"""

from collections.abc import Iterator

from gkdplan.diagnostics import Diagnostic
from gkdplan.spec.contradictions import (
    device_and_run,
    generation,
    student,
    teacher,
    teacher_server,
)
from gkdplan.spec.source import Source

CHECKS = (
    *device_and_run.CHECKS,
    *student.CHECKS,
    *teacher_server.CHECKS,
    *teacher.CHECKS,
    *generation.CHECKS,
)


def contradictions(source: Source) -> Iterator[Diagnostic]:
    """Every contradiction of a plan, each at its place."""
    for check in CHECKS:
        for finding in check(source):
            yield finding.at(source.locate(finding.path or ""))
