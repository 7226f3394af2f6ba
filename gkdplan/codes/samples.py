"""Samples that are kept in a file."""

from gkdplan.codes.code import Code

CODES: dict[str, Code] = {
    "GK562": Code(
        "unfinished samples of another plan",
        "Going on with them would mix samples that were drawn differently in one file.",
        "Remove the unfinished file, or name another after `-o`.",
    ),
    "GK563": Code(
        "samples that another process is writing",
        "Two processes would write the same rows twice.",
        "Wait for the other process, stop it, or name another file after `-o`.",
    ),
}
