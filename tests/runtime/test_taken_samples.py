"""A run that takes the teacher's samples of a file: it learns from exactly its tokens."""

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import hf_reference
import pytest
import torch.distributed as dist
from gloo_ranks import launched_as_forks, run_on_ranks
from one_step import learn_once
from sampled import compile_taking, sample_tiny
from silent_session import open_silently
from tiny_plans import make_home

from gkdplan.diagnostics import UserError
from gkdplan.runplan.codec import encode
from gkdplan.runplan.model import DataSource
from gkdplan.runtime.data.examples import Example
from gkdplan.runtime.launch import run
from gkdplan.runtime.samples.taken import take_samples
from gkdplan.runtime.saved.run_directory import read_metrics
from gkdplan.samples import prompt_fingerprint


@pytest.fixture(scope="module", autouse=True)
def forks() -> Iterator[None]:
    with launched_as_forks():
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return make_home(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def drawn(home) -> Path:
    file = home / "drawn.jsonl"
    assert sample_tiny(home, file).exit_code == 0
    return file


def responses_in(file: Path) -> dict[int, list[int]]:
    samples = map(json.loads, file.read_text().splitlines()[1:])
    return {sample["row"]: sample["response"] for sample in samples}


def test_a_step_on_two_ranks_learns_from_exactly_the_files_tokens(home, drawn, tmp_path):
    plan = compile_taking(home, drawn, tmp_path / "run", devices=2, distributed="false")
    run_on_ranks(_learn, 2, encode(plan), str(drawn))


def _learn(lock: str, file: str) -> None:
    """The responses of every rank's rows, and the step's loss by Hugging Face in float64."""
    session, sampled = open_silently(lock), responses_in(Path(file))
    state = learn_once(session, beta=0.5, temperature=1.0)
    learnt = {e.row: list(r) for e, r in zip(state.examples, state.responses, strict=True)}
    assert learnt == {row: sampled[row] for row in learnt}
    assert len(learnt) == 4
    rows = [(e.prompt, sampled[e.row]) for e in session.train.examples]
    if dist.get_rank() == 0:
        models = session.plan.models
        student, teacher = (
            hf_reference.load(Path(model.model)) for model in (models.student, models.teacher)
        )
        loss = hf_reference.step(
            student, teacher, rows, beta=0.5, temperature=1.0, vocab_size=models.vocab_size
        )
        assert state.loss == pytest.approx(float(loss), rel=1e-6)


def test_a_whole_run_has_the_teacher_as_its_source_and_no_engine(home, drawn, tmp_path):
    result = run(compile_taking(home, drawn, tmp_path / "run", steps=2))
    assert result.exit_code == 0
    steps = [line for line in read_metrics(result.run_dir / "metrics.jsonl") if "loss" in line]
    assert [line["source"] for line in steps] == ["teacher"] * 2
    num_tokens = sum(map(len, responses_in(drawn).values()))
    assert [line["num_tokens"] for line in steps] == [num_tokens] * 2
    assert not any("generate" in line["time_s"] for line in steps)


def test_a_file_that_changed_after_the_plan_was_compiled_is_refused(home, drawn, tmp_path):
    file = tmp_path / "drawn.jsonl"
    file.write_bytes(drawn.read_bytes())
    plan = compile_taking(home, file, tmp_path / "run")
    file.write_bytes(drawn.read_bytes() + b"\n")
    result = run(plan)
    (found,) = result.diagnostics
    assert (result.exit_code, found.code, found.path) == (1, "GK560", "teacher.samples")


EXAMPLES = [Example(row, f"rows.jsonl:{row + 1}", (1, 2, 3 + row), None, "") for row in (0, 1, 4)]
GOOD = [
    {"row": e.row, "prompt_sha256": prompt_fingerprint(e.prompt), "response": [5, e.row]}
    for e in EXAMPLES
]
FAULTS = {
    "has no sample": {"row": 3},
    "answers another prompt": {"prompt_sha256": prompt_fingerprint((1, 2))},
    "is not of 1 to 4 tokens": {"response": []},
    "not of 1 to 4 tokens": {"response": [1, 2, 3, 4, 5]},
    "an id that is not below 10": {"response": [1, 10]},
    "id that is not below 10": {"response": [1, -1]},
    "that is not below 10": {"response": [1, 2.0]},
}


def taken(path: Path, samples: list[dict]):
    lines = [json.dumps({"samples": {}}), *map(json.dumps, samples)]
    content = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(content)
    source = DataSource(str(path), None, len(samples), sha256(content).hexdigest())
    return take_samples(source, EXAMPLES, max_tokens=4, vocab_size=10)


def test_samples_are_found_by_their_rows_in_any_order(tmp_path):
    others = [{"row": 2, "prompt_sha256": "", "response": []}]
    found = taken(tmp_path / "f.jsonl", GOOD[::-1] + others)
    assert {row: tuple(found[row]) for row in found} == {0: (5, 0), 1: (5, 1), 4: (5, 4)}


@pytest.mark.parametrize("reason", FAULTS)
def test_a_row_whose_sample_cannot_be_learnt_is_named(tmp_path, reason):
    with pytest.raises(UserError) as refusal:
        taken(tmp_path / "f.jsonl", [GOOD[0], GOOD[1] | FAULTS[reason], GOOD[2]])
    (found,) = refusal.value.diagnostics
    assert (found.code, found.path) == ("GK561", "teacher.samples")
    assert "the row at `rows.jsonl:2`" in found.message
    assert reason in found.message


def test_a_file_that_is_gone_is_named(tmp_path):
    with pytest.raises(UserError) as refusal:
        take_samples(DataSource(str(tmp_path / "gone"), None, 1, ""), EXAMPLES, 4, 10)
    assert refusal.value.diagnostics[0].code == "GK560"


def test_a_plan_without_a_file_takes_none():
    assert take_samples(None, EXAMPLES, 4, 10) == {}
