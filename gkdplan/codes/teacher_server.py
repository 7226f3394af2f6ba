"""A teacher behind a server."""

from gkdplan.codes.code import Code

CODES: dict[str, Code] = {
    "GK550": Code(
        "a teacher's server that does not answer",
        "Every step asks it; a run that starts without it would stop at once.",
        "Start the server, or mend its address in `[teacher.server]`.",
    ),
    "GK551": Code(
        "a teacher's server that is gone",
        "What it has not scored cannot be learnt from, and a wait without end helps nobody.",
        "Start the server again, then `--resume auto` goes on from the last checkpoint.",
    ),
    "GK552": Code(
        "a teacher's server that refuses",
        "A request that is refused once is refused each time it is repeated.",
        "Read its words in the notes; a key goes into the environment variable VLLM_API_KEY.",
    ),
    "GK553": Code(
        "a teacher's server with another vocabulary",
        "The loss compares the two distributions id by id: an id must be one token on both sides.",
        "Serve the model that `teacher.model` names, or one with the same tokenizer.",
    ),
    "GK554": Code(
        "fewer log-probabilities than the plan keeps",
        "vllm gives as many a token as it was started for: 20, if nothing was said.",
        "Start the server with `--max-logprobs` of at least `teacher.server.top_k`.",
    ),
    "GK555": Code(
        "rows that a teacher's server has no room for",
        "The server would refuse the longest rows, in the middle of a run.",
        "Start the server with a larger `--max-model-len`, or shorten prompts or responses.",
    ),
    "GK556": Code(
        "an answer that is no distribution",
        "A student that learns from not-a-number, or from another row, learns nothing.",
        "Look into the server's log; serve the model in the dtype that it was trained in.",
    ),
    "GK557": Code(
        "a response that a teacher's server ended by its own rules",
        "The student would learn to stop where its chat template does not.",
        "Start the server with `--generation-config vllm`.",
    ),
}
