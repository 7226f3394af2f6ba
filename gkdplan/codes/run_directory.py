"""A run directory: whose it is, its checkpoints and its disk."""

from gkdplan.codes.code import Code

CODES: dict[str, Code] = {
    "GK510": Code(
        "the run directory holds another plan's run",
        "Two runs in one directory would mix their metrics and overwrite each other's students.",
        "Set `run.output` to another directory, or resume with the plan that began the run.",
    ),
    "GK511": Code(
        "the run directory already holds this plan's run",
        "`--resume never` promises a run from the beginning, and nothing is overwritten.",
        "Use `--resume auto` to go on, or set `run.output` to another directory.",
    ),
    "GK512": Code(
        "the run directory is not empty",
        "It holds files that no run of gkdplan wrote, and nothing is overwritten.",
        "Set `run.output` to a directory that does not exist yet.",
    ),
    "GK513": Code(
        "the run is finished",
        "All its steps are done: there is nothing to go on with.",
        "Set `run.output` to another directory to run the plan again.",
    ),
    "GK514": Code(
        "not a checkpoint of this run",
        "`--resume DIR` goes on from a whole checkpoint of the plan's own run directory only.",
        "Name one of the checkpoints listed, or use `--resume auto`.",
    ),
    "GK517": Code(
        "a training state that cannot be read",
        "Going on without it would not be the same run.",
        "Resume from an older checkpoint: `--resume` takes its directory.",
    ),
    "GK518": Code(
        "a run that is going on already",
        "Two processes in one run directory would write over each other's logs and checkpoints.",
        "Wait for the other process, stop it, or set `run.output` to another directory.",
    ),
    "GK535": Code(
        "a checkpoint that is not whole",
        "A file of it is missing or has other bytes than those that were saved.",
        "Nothing: the run goes on from the newest one that is whole, and repeats the steps since.",
    ),
    "GK536": Code(
        "a disk that is full",
        "A checkpoint or a line of the log could not be written; what was whole before still is.",
        "Free space on the disk of `run.output`, or lower `run.keep`; the same command goes on.",
    ),
    "GK538": Code(
        "a disk without room for the checkpoints",
        "The run would stop in the middle, when a checkpoint does not fit any more.",
        "Free space, set `run.output` to another disk, or lower `run.keep`.",
    ),
    "GK539": Code(
        "a run that went on in another layout",
        "Each rank read its share of the state that other ranks had saved.",
        "Nothing: the weights, the moments and the order of rows are those of the run so far.",
    ),
    "GK588": Code(
        "a student that cannot be exported",
        "Half a model, or one whose bytes have changed, is worse than none.",
        "Name a run with a whole checkpoint, and a directory that does not exist yet.",
    ),
}
