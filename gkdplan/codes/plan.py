"""Syntax and schema: the text of the plan."""

from gkdplan.codes.code import Code

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
    "GK010": Code(
        "a command of another tool that cannot be imported",
        "A plan made of half a command would run something else.",
        "Give a script with one `megatron rlhf --rlhf_type gkd`, or a YAML of its flags.",
    ),
    "GK011": Code(
        "a flag that has no counterpart in a plan",
        "What it asks for is not done, and you should know before you compare two runs.",
        "Leave it out, or do what is said beside it; the plan has it as a comment.",
    ),
}
