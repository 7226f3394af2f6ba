"""The code table: what each diagnostic means, why it is refused and what mends it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Code:
    """One row: `title` names the rule, `why` the harm it prevents, `mend` the usual way out."""

    title: str
    why: str
    mend: str


CODES: dict[str, Code] = {
    "GK001": Code(
        "the plan is not valid TOML",
        "A plan that cannot be parsed says nothing, so nothing else is checked.",
        "Mend the text at the place shown; a common slip is a missing quote or bracket.",
    ),
    "GK002": Code(
        "a key that no plan has",
        "A key that nothing reads would be a flag that is ignored, so it is an error.",
        "Use the nearest known key, or remove it; `gkdplan schema` prints the whole vocabulary.",
    ),
    "GK003": Code(
        "a value of the wrong type or outside its range",
        "Values are never coerced: what you wrote is what runs, or it is refused.",
        "Write a value of the type named; numbers carry no quotes, flags are true or false.",
    ),
    "GK004": Code(
        "a required key is missing",
        "No default is honest for it.",
        "Add the key to the table shown.",
    ),
    "GK005": Code(
        "the plan file cannot be read",
        "Nothing can be checked without it.",
        "Name an existing UTF-8 file; without a path, plan.toml of the working directory is read.",
    ),
    "GK006": Code(
        "keys that contradict each other",
        "Two keys that ask for different things leave it open which one runs.",
        "Keep one of them.",
    ),
    "GK501": Code(
        "a stale lock",
        "`--locked` promises that the reviewed decisions run, and the plan now decides others.",
        "Read the differences; undo them, or accept them with `gkdplan plan PLAN -o LOCK`.",
    ),
    "GK502": Code(
        "a file that is not a lock of gkdplan",
        "A lock is read strictly, never guessed at, and no file of another kind is overwritten.",
        "Name a file that `gkdplan plan PLAN -o LOCK` wrote, or one that does not exist yet.",
    ),
    "GK503": Code(
        "a lock that was edited",
        "Its numbers were decided together; changing one by hand leaves the others wrong.",
        "Change the plan and write the lock again with `gkdplan plan PLAN -o LOCK`.",
    ),
    "GK504": Code(
        "a lock of another format",
        "A field that this version does not know could change what runs.",
        "Write the lock again with this version of gkdplan, or use the version that wrote it.",
    ),
    "GK505": Code(
        "a file that cannot be read or written",
        "The command would have no input, or its result would be lost.",
        "Name a path that exists and that you may read; a directory to write into must exist.",
    ),
    "GK506": Code(
        "a directory that holds no run",
        "A report shows what a run left behind: its lock and its metrics.",
        "Name the directory that `gkdplan run` printed as it ended.",
    ),
}
