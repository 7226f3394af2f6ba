"""A run that is going on, and what no version runs yet."""

from gkdplan.codes.code import Code

CODES: dict[str, Code] = {
    "GK530": Code(
        "a rank raised",
        "One rank's failure ends all: the others would wait for it for ever.",
        "Read the traceback in the notes; then `--resume auto` goes on from the last checkpoint.",
    ),
    "GK531": Code(
        "a rank was killed",
        "A signal leaves no traceback; the kernel's out-of-memory killer is the usual sender.",
        "Look into the system's log, free memory, then `--resume auto` goes on.",
    ),
    "GK532": Code(
        "training diverged",
        "Loss or gradient was not finite, more often in a row than `run.max_skipped_steps`.",
        "Look at the rows in `skipped/`; lower `optimizer.lr` or warm up longer, then resume.",
    ),
    "GK533": Code(
        "a run that was stopped by a signal",
        "Someone pressed Ctrl-C, or a scheduler wanted the machine back.",
        "Run the same command again: `--resume auto` goes on from the last checkpoint.",
    ),
    "GK534": Code(
        "a run that needs more memory than it has",
        "A rank held more on its device than `cluster.memory_limit` allows, or than there is.",
        "Compare `gkdplan memory PLAN` with the report; shorten rows, or take what `search` finds.",
    ),
    "GK570": Code(
        "an engine whose logits are not finite",
        "A token drawn from them is arbitrary, and the student would learn from it.",
        "Lower `optimizer.lr` where the student diverged; resume from before that.",
    ),
    "GK571": Code(
        "responses of other weights",
        "A response is the student's only where the weights of that step drew all of it.",
        "Let nothing else update the engine's weights, then resume.",
    ),
    "GK572": Code(
        "a sampled id outside the vocabulary",
        "Neither the loss nor the tokenizer has a place for it.",
        "Serve the student that the plan names, with its own config.json.",
    ),
    "GK573": Code(
        "responses that are empty",
        "The model that samples ends at once, and nothing but the end is learnt from it.",
        "Look at completions.jsonl; lower `distill.lmbda` or `optimizer.lr` if it began so.",
    ),
    "GK574": Code(
        "a gradient that grows",
        "Its norm is ten times what it was in the steps before: training may be about to diverge.",
        "Look at the rows of the step; lower `optimizer.lr` or `optimizer.clip_grad` if it stays.",
    ),
    "GK590": Code(
        "a feature that is not yet available",
        "The vocabulary knows it, this version cannot run it, and ignoring it would be a lie.",
        "Use one of the values shown, or a later version of gkdplan.",
    ),
    "GK591": Code(
        "a value that is planned, but not yet run",
        "Its layout, memory and steps are decided; the executor of this version cannot run them.",
        "Plan and compare with it as you like; to run, take the value away.",
    ),
}
