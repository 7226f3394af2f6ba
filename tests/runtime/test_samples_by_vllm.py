"""`gkdplan sample` with vLLM on the ranks: the teacher's and the student's samples."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from gloo_ranks import launched_as_forks
from sampled import compile_taking, sample_tiny, sampling_of

from gkdplan.samples import manifest_of
from gkdplan.vocab import Engine, Role

GREEDY = {"distill": "sampling_temperature = 0.0"}
VLLM = {"generation": 'engine = "vllm"\ngpu_memory_utilization = 0.004', **GREEDY}

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module", autouse=True)
def forks() -> Iterator[None]:
    with launched_as_forks():
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Models of other shapes, with heads that vLLM knows on a CPU; the teacher's own chat template
    would make other prompts."""
    home = tmp_path_factory.mktemp("home")
    tiny.save_qwen2(home / "student", num_layers=2, hidden=128, max_positions=256, seed=2)
    tiny.save_llama(home / "teacher", num_layers=3, hidden=128, max_positions=256, seed=1)
    (home / "teacher" / "chat_template.jinja").write_text("{{ messages[0].content }}")
    tiny.save_rows(home / "rows.jsonl")
    return home


@pytest.mark.parametrize(
    ("role", "devices"),
    [
        (Role.TEACHER, 1),
        pytest.param(Role.STUDENT, 1, marks=pytest.mark.grid),
        pytest.param(Role.TEACHER, 2, marks=pytest.mark.grid),
    ],
)
def test_greedy_samples_are_those_of_megatrons_own_generation(home, tmp_path, role, devices):
    by_vllm, by_megatron = tmp_path / "vllm.jsonl", tmp_path / "megatron.jsonl"
    ragged = {"devices": devices, "rows": 6, "micro": 1}
    assert sample_tiny(home, by_vllm, role, **VLLM, **ragged).exit_code == 0
    assert sample_tiny(home, by_megatron, role, **GREEDY).exit_code == 0
    first, *samples = by_vllm.read_text().splitlines()
    assert samples == by_megatron.read_text().splitlines()[1:]
    assert len(samples) == 8
    manifest = manifest_of(json.loads(first))
    assert (manifest.role, manifest.engine) == (role, Engine.VLLM)
    assert manifest.model == f"{home}/{role}"
    if role is Role.TEACHER:
        compile_taking(home, by_vllm, tmp_path / "run", **GREEDY)


def test_what_is_asked_of_vllm_is_a_plan_whose_student_is_the_teacher(home):
    """In the teacher's own layout, which the student need not have."""
    layout = "[teacher.parallel]\ntensor = 2"
    decided = sampling_of(home, Role.TEACHER, **VLLM, devices=2, prefetch=layout)
    assert decided.run_plan.models.student.model == f"{home}/teacher"
    assert decided.run_plan.layout.student.tensor == 2
    assert (decided.drawn_as, decided.manifest.role) == (Role.STUDENT, Role.TEACHER)
    assert decided.run_plan.sampling.vllm is not None
    assert decided.run_plan.sampling.vllm.tensor == 2
    assert decided.renderer.model == f"{home}/student"
    by_megatron = sampling_of(home, Role.TEACHER, **GREEDY).manifest
    assert decided.manifest.tokenizer == by_megatron.tokenizer
