"""Command line, locks, and the files that a command reads and writes."""

from gkdplan.codes.code import Code

CODES: dict[str, Code] = {
    "GK500": Code(
        "a command line that fits no command",
        "Nothing is guessed of what was meant; with `--json` the answer is a finding like others.",
        "Use the command as its usage says; `gkdplan COMMAND --help` lists its options.",
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
    "GK508": Code(
        "a file that is not a page of gkdplan",
        "A page may replace an older page; a plan, a lock or a file of yours stays as it is.",
        "Name a file that does not exist yet, or an HTML page.",
    ),
    "GK509": Code(
        "a number that the ledger does not have",
        "A formula belongs to one row of one phase, priced by the version that shows it.",
        "Name a row, a phase, or both, as `gkdplan memory` shows them: `student.activations`.",
    ),
    "GK520": Code(
        "a file that is there already",
        "A plan that was written by hand would be lost.",
        "Name a file that does not exist yet.",
    ),
    "GK529": Code(
        "models that fit these devices in no layout",
        "A first plan is written only where it passes check.",
        "Take more devices, adapters or a smaller model; offload was tried already.",
    ),
}
