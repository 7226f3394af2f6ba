"""`gkdplan sample`: whose tokens the file holds, in every layout, and what a stop leaves."""

import fcntl
import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gloo_ranks import launched_as_forks, run_on_ranks
from sampled import sample_decided, sample_tiny, sampling_of
from silent_session import open_silently
from tiny_plans import compile_tiny, make_home
from torch.distributed.elastic.multiprocessing.api import SignalException
from transformers import AutoModelForCausalLM, AutoTokenizer

from gkdplan.diagnostics import UserError
from gkdplan.runplan.codec import encode, seal
from gkdplan.runtime.interrupts import Interrupted
from gkdplan.runtime.responses import sample_responses
from gkdplan.runtime.samples import launch
from gkdplan.runtime.samples.partial import partial_of
from gkdplan.samples import manifest_of, prompt_fingerprint
from gkdplan.vocab import Role

NUM_ROWS = 8
LONG = {"prompt": 100}
GREEDY = {"distill": "sampling_temperature = 0.0", **LONG}
RAGGED = {"rows": 6, "micro": 1, **LONG}
"""The second batch has two rows, for two data ranks or one."""


@pytest.fixture(scope="module", autouse=True)
def forks() -> Iterator[None]:
    with launched_as_forks():
        yield


def history(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    roles = ("user", "assistant") * len(contents)
    turns = [{"role": role, "content": c} for role, c in zip(roles, contents, strict=False)]
    return [{"role": "system", "content": system}, *turns] if system else turns


HISTORIES = [
    history("what is two and two?", "it is four", "and one more?", "five", "say it", "five"),
    history("name a colour", "blue", system="one word"),
    history("what does the fox do?"),
    history("is it red?", "at dusk", "why?", system="the fox"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Half of the rows are histories: of several turns, with a system turn, without an answer."""
    home = make_home(tmp_path_factory.mktemp("tiny"))
    rows = (home / "rows.jsonl").read_text().splitlines()
    mixed = [*rows[:4], *(json.dumps({"messages": turns}) for turns in HISTORIES)]
    (home / "rows.jsonl").write_text("".join(f"{row}\n" for row in mixed))
    return home


@pytest.fixture(scope="module")
def drawn(home) -> Path:
    """The teacher's samples, by one process."""
    file = home / "drawn.jsonl"
    result = sample_tiny(home, file, **RAGGED)
    assert (result.exit_code, result.counts["num_rows"]) == (0, NUM_ROWS)
    return file


def samples_in(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()[1:]]


@pytest.mark.parametrize("role", [Role.TEACHER, pytest.param(Role.STUDENT, marks=pytest.mark.grid)])
def test_greedy_samples_are_what_transformers_writes(home, tmp_path, role):
    sample_tiny(home, tmp_path / "greedy.jsonl", role, **GREEDY)
    model = AutoModelForCausalLM.from_pretrained(home / str(role), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(home / str(role))
    rows = (home / "rows.jsonl").read_text().splitlines()
    assert len(rows) == NUM_ROWS
    samples = samples_in(tmp_path / "greedy.jsonl")
    assert [s["row"] for s in samples] == list(range(NUM_ROWS))
    for line, found in zip(rows, samples, strict=True):
        turns = json.loads(line)["messages"]
        inputs = tokenizer.apply_chat_template(
            turns[:-1] if turns[-1]["role"] == "assistant" else turns,
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        tokens = model.generate(
            **inputs,
            max_new_tokens=12,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=tokenizer.eos_token_id,
            suppress_tokens=list(range(len(tokenizer), model.config.vocab_size)),
        )[0].tolist()
        prompt = inputs["input_ids"][0].tolist()
        assert found["response"] == tokens[len(prompt) :]
        assert found["prompt_sha256"] == prompt_fingerprint(prompt)
        assert found["text"] == tokenizer.decode(found["response"], skip_special_tokens=True)
        is_ended = found["response"][-1] == tokenizer.eos_token_id
        assert found["finish_reason"] == ("stop" if is_ended else "length")


@pytest.mark.parametrize(
    "axes",
    [pytest.param({"tensor": 2}, marks=pytest.mark.grid), {"tensor": 1}],
    ids=["tensor", "data"],
)
def test_two_processes_write_the_same_bytes_as_one(home, drawn, tmp_path, axes):
    file = tmp_path / "two.jsonl"
    assert sample_tiny(home, file, devices=2, **axes, **RAGGED).exit_code == 0
    assert file.read_bytes() == drawn.read_bytes()


def test_they_are_what_a_run_draws_in_step_0(home, drawn, tmp_path):
    """A row's seed is that of step 0, which no run has: a run on the teacher's samples calls the
    same with its own steps."""
    plan = compile_tiny(home, tmp_path / "run", seq_kd=1.0, held_out="[]", **LONG)
    run_on_ranks(_draw_as_a_run, 1, encode(plan), str(tmp_path / "run.json"))
    expected = json.loads((tmp_path / "run.json").read_text())
    assert [s["response"] for s in samples_in(drawn)] == expected["0"]
    assert expected["1"] != expected["0"]


def _draw_as_a_run(lock: str, out: str) -> None:
    session = open_silently(lock)
    drawn = {
        step: sample_responses(
            session, Role.TEACHER, session.train.examples, session.plan.sampling, step
        )
        for step in (0, 1)
    }
    Path(out).write_text(json.dumps(drawn))


def test_the_first_line_says_whose_they_are(home, drawn):
    manifest = manifest_of(json.loads(drawn.read_text().splitlines()[0]))
    assert manifest == sampling_of(home, Role.TEACHER, **RAGGED).manifest
    assert (manifest.role, manifest.model) == (Role.TEACHER, f"{home}/teacher")
    assert manifest.data[0].num_rows == NUM_ROWS


def test_sampling_goes_on_behind_the_last_whole_line(home, drawn, tmp_path):
    whole = drawn.read_bytes()
    lines = whole.splitlines(keepends=True)
    file = tmp_path / "again.jsonl"
    partial_of(file).write_bytes(b"".join(lines[:4]) + lines[4][:20])
    assert sample_tiny(home, file, **RAGGED).exit_code == 0
    assert file.read_bytes() == whole
    assert not partial_of(file).exists()


def test_nothing_of_others_is_overwritten_or_mixed(home, drawn, tmp_path):
    before = drawn.read_bytes()
    assert refused(home, drawn) == "GK520"
    assert drawn.read_bytes() == before
    file = tmp_path / "other.jsonl"
    partial_of(file).write_bytes(before)
    assert refused(home, file, temperature=0.5) == "GK562"
    assert partial_of(file).read_bytes() == before
    with partial_of(file).open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert refused(home, file) == "GK563"
    assert refused(home, tmp_path / "no-such-directory" / "samples.jsonl") == "GK505"


def refused(home: Path, file: Path, **changes: object) -> str:
    with pytest.raises(UserError) as refusal:
        sample_tiny(home, file, **changes)
    (found,) = refusal.value.diagnostics
    return found.code


@pytest.mark.parametrize(
    ("stop", "exit_code"), [(Interrupted(), 130), (SignalException("stop", signal.SIGTERM), 4)]
)
def test_a_signal_leaves_what_was_sampled(home, drawn, tmp_path, monkeypatch, stop, exit_code):
    file = tmp_path / "stopped.jsonl"
    lines = drawn.read_bytes().splitlines(keepends=True)
    partial_of(file).write_bytes(b"".join(lines[:3]))

    def stopped(*arguments: object) -> None:
        raise stop

    monkeypatch.setattr(launch, "start_ranks", stopped)
    result = sample_tiny(home, file, **RAGGED)
    (found,) = result.diagnostics
    assert (result.exit_code, found.code) == (exit_code, "GK533")
    assert not file.exists()
    assert partial_of(file).read_bytes() == b"".join(lines[:3])


def test_what_the_user_can_mend_comes_back_from_the_ranks(home, tmp_path):
    decided = sampling_of(home, Role.TEACHER)
    data = decided.run_plan.data
    changed = replace(data, train=(replace(data.train[0], fingerprint="0" * 64),))
    decided = replace(decided, run_plan=seal(replace(decided.run_plan, data=changed)))
    result = sample_decided(decided, tmp_path / "none.jsonl")
    assert (result.exit_code, [f.code for f in result.diagnostics]) == (1, ["GK470"])
