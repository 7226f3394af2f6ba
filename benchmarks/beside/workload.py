"""What all subjects of a whole step learn from: SmolLM2-135M-Instruct into 12 of its layers.

A workload is a directory: rows.jsonl with the conversations, a plan for each source of a step, and
tokens.json with the sources of the steps and the rows as the tokens that gkdplan makes of them,
which the other trainers are given.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from gkdplan.runtime.data.chat import Chat, load_chat
from gkdplan.runtime.data.rows import TurnsRow
from gkdplan.runtime.data.tokenise import tokenise

ROOT = Path(__file__).parents[2]
MODEL = ROOT / ".cache" / "SmolLM2-135M-Instruct"
TEXTS = ROOT / "plans" / "data" / "quickstart.jsonl"
KEPT_LAYERS = [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 27, 29]
OFF, ON = "dataset", "student"
BATCH, BETA, NEW_TOKENS = 4, 0.5, 64
ENGINES = {
    "megatron": 'engine = "megatron"',
    "vllm": 'engine = "vllm", gpu_memory_utilization = 0.2',
}
LR, BETAS, EPS, CLIP_GRAD = 1e-4, (0.9, 0.999), 1e-8, 1.0

PLAN = """
name = "benchmark"
cluster = {{device = "cpu"}}
data = {{train = ["{rows}"], max_length = 1024, shuffle = false}}
batch = {{micro = {batch}, global = {batch}}}
distill = {{beta = {beta}, lmbda = {lmbda}, temperature = 1.0}}
generation = {{{engine}, max_completion_length = {max_completion_length}}}

[student]
model = "{model}"
dtype = "fp32"
init = "layers"
keep = {{layers = {layers}}}

[teacher]
model = "{model}"

[optimizer]
lr = {lr}
schedule = "constant"
warmup_fraction = 0.0
weight_decay = 0.0
betas = {betas}
eps = {eps}
clip_grad = {clip_grad}

[run]
output = "{output}"
steps = 1000
loggers = []
"""

NUM_SAMPLED = 16
SAMPLING_PLAN = """
name = "benchmark"
cluster = {{device = "cpu"}}
student = {{model = "{model}", dtype = "{dtype}"}}
teacher = {{model = "{model}", dtype = "{dtype}"}}
data = {{train = ["{texts}#{rows}"], max_length = 128}}
batch = {{micro = 1, global = {rows}}}
distill = {{lmbda = 1.0}}
generation = {{{engine}, max_completion_length = 128}}
run = {{steps = 1}}
"""


@dataclass(frozen=True, slots=True)
class Lengths:
    """About how many tokens a row's user and assistant say; the template adds its own."""

    prompt: int
    response: int


@dataclass(frozen=True, slots=True)
class Workload:
    """Each step takes the next `BATCH` rows, and its responses from its source: the dataset, or the
    student, which says at most `NEW_TOKENS`."""

    sources: list[str]
    prompts: list[list[int]]
    responses: list[list[int]]


def write(
    directory: Path, rows: Sequence[dict], sources: Sequence[str], engine: str = "megatron"
) -> None:
    """Make the workload of `rows`, conversations of a user and an assistant, in `directory`."""
    chat = load_chat(MODEL)
    rows_file = directory / "rows.jsonl"
    rows_file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    pairs = [_tokens(row, chat) for row in rows]
    longest = max(len(response) for _, response in pairs)
    for source, limit in ((OFF, longest), (ON, NEW_TOKENS)):
        plan = PLAN.format(
            rows=rows_file,
            batch=BATCH,
            beta=BETA,
            lmbda=float(source == ON),
            engine=ENGINES[engine],
            max_completion_length=limit,
            model=MODEL,
            layers=KEPT_LAYERS,
            lr=LR,
            betas=list(BETAS),
            eps=EPS,
            clip_grad=CLIP_GRAD,
            output=directory / "run",
        )
        (directory / f"{source}.toml").write_text(plan, encoding="utf-8")
    prompts, responses = ([list(pair[i]) for pair in pairs] for i in (0, 1))
    workload = Workload(list(sources), prompts, responses)
    (directory / "tokens.json").write_text(json.dumps(asdict(workload)), encoding="utf-8")


def read(directory: Path) -> Workload:
    return Workload(**json.loads((directory / "tokens.json").read_text(encoding="utf-8")))


def long_rows(lengths: Sequence[Lengths]) -> list[dict]:
    """Conversations of about these lengths, cut from the quickstart's texts laid end to end."""
    tokenizer = load_chat(MODEL).tokenizer
    text = "\n".join(" ".join(texts) for texts in _texts())
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    rows, start = [], 0
    for length in lengths:
        middle, end = start + length.prompt, start + length.prompt + length.response
        assert end <= len(tokens), "the texts are too short for so many rows"
        question, answer = (
            tokenizer.decode(tokens[a:b]) for a, b in ((start, middle), (middle, end))
        )
        rows.append(_conversation(question.strip(), answer.strip()))
        start = end
    return rows


def short_rows(num_rows: int) -> list[dict]:
    """The quickstart's shortest conversations."""
    pairs = [texts for texts in _texts() if len(texts) == 2]
    assert len(pairs) >= num_rows
    return [
        _conversation(*pair) for pair in sorted(pairs, key=lambda p: len("".join(p)))[:num_rows]
    ]


def sampling_plan(engine: str, dtype: str) -> str:
    """A plan whose student samples a batch of `sampling_prompts`."""
    return SAMPLING_PLAN.format(
        engine=ENGINES[engine], dtype=dtype, model=MODEL, texts=TEXTS, rows=NUM_SAMPLED
    )


def sampling_prompts() -> list[list[int]]:
    """The quickstart's first questions, as the chat template puts them to the student."""
    chat = load_chat(MODEL)
    questions = (_conversation(*texts)["messages"][0] for texts in islice(_texts(), NUM_SAMPLED))
    rows = [TurnsRow("", (question,), None) for question in questions]
    return [list(tokenise(row, chat, "").prompt) for row in rows]


def _texts() -> Iterator[list[str]]:
    for line in TEXTS.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if "messages" in row:
            yield [message["content"] for message in row["messages"]]
        else:
            yield [row["prompt"], row["completion"].strip()]


def _conversation(question: str, answer: str) -> dict:
    turns = (("user", question), ("assistant", answer))
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def _tokens(row: dict, chat: Chat) -> tuple[Sequence[int], Sequence[int]]:
    question, answer = row["messages"]
    tokenised = tokenise(TurnsRow("", (question,), answer), chat, "")
    assert tokenised.response is not None
    return tokenised.prompt, tokenised.response
