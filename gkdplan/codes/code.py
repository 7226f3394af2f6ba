"""One row of the code table."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Code:
    """One row: `title` names the rule, `why` the harm it prevents, `mend` the usual way out;
    `source` says who else refuses it and when, where a rule is another program's."""

    title: str
    why: str
    mend: str
    source: str | None = None
