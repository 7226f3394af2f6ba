"""Prompts that are too long, and samples that are kept in a file."""

from gkdplan.codes.code import Code

CODES: dict[str, Code] = {
    "GK440": Code(
        "a file that holds no samples",
        "Only what `gkdplan sample` writes says whose samples they are, and of which rows.",
        "Write one with `gkdplan sample PLAN --source teacher -o FILE`, and name it.",
    ),
    "GK441": Code(
        "samples of another model",
        "Steps that should learn from this teacher's samples would learn from another's.",
        "Sample again, or name the model that they are of as the teacher.",
    ),
    "GK442": Code(
        "samples under other tokens",
        "Responses are ids that answer rendered prompts; elsewhere they mean something else.",
        "Sample again with this plan's student, whose tokenizer and template are used.",
    ),
    "GK443": Code(
        "samples that were drawn otherwise",
        "The plan says how the teacher's samples are drawn; these were drawn in another way.",
        "Give the plan the settings shown, or sample again.",
    ),
    "GK444": Code(
        "samples of other rows",
        "A sample answers one prompt; the plan's rows, or their limits, make other ones.",
        "Name the rows that were sampled, with their limits, or sample again.",
    ),
    "GK445": Code(
        "a prompt that stops the run",
        'With `data.truncation = "error"` a run refuses the first prompt that is too long.',
        "Raise `data.max_length`, shorten the row, or choose another `data.truncation`.",
    ),
    "GK446": Code(
        "prompts that are left out or cut",
        "The run learns from fewer rows, or from other prompts, than the files hold.",
        "Raise `data.max_length`, or accept what `data.truncation` does.",
    ),
    "GK560": Code(
        "a file of samples changed after the plan was compiled",
        "The run plan was checked against what the file said then.",
        "Compile the plan again, or put the file back as it was.",
    ),
    "GK561": Code(
        "a row whose sample cannot be learnt from",
        "It is missing, answers another prompt, or has ids that the vocabulary does not have.",
        "Sample again into another file; no file of samples is edited by hand.",
    ),
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
