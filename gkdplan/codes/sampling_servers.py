"""The servers that draw a student's samples."""

from gkdplan.codes.code import Code

CODES: dict[str, Code] = {
    "GK540": Code(
        "a server that does not answer",
        "The student's samples are drawn there; a run would stop at its first step.",
        "Start it with `gkdplan serve PLAN`, and wait until it says that it is up.",
    ),
    "GK541": Code(
        "a server that wants another key",
        "`gkdplan serve` has every route ask for a key, those that replace weights too.",
        "Set `VLLM_API_KEY` to one key where the server starts and where the run does.",
    ),
    "GK542": Code(
        "a server that cannot do what the plan asks",
        "It must take weights while it is up, prompts as tokens, and the plan's longest row.",
        "Start it with `gkdplan serve PLAN`, which gives vllm the plan's limits and routes.",
    ),
    "GK543": Code(
        "a server that refuses the student's weights",
        "It would go on sampling with others, which the student does not learn from.",
        "Start it with `gkdplan serve PLAN`: its model must have the student's shape and dtype.",
    ),
    "GK544": Code(
        "an answer that is no completion",
        "What it lacks would be guessed, and a guess is no sample of the student's.",
        "Start the server with `gkdplan serve PLAN`: answers differ between versions of vllm.",
    ),
    "GK546": Code(
        "no server that answers any more",
        "Every server of the plan went away while the run was going on, and none came back.",
        "Start one again with `gkdplan serve PLAN`; the same command then goes on.",
    ),
    "GK547": Code(
        "nothing to serve",
        "`gkdplan serve` starts one server of the plan, at an address that the plan names.",
        "Name servers in `generation.server_url` or `[teacher.server]`, and choose with `--url`.",
    ),
}
