"""The teacher's samples beside a real vLLM engine are those of the teacher beside Megatron's own
generation."""

from pathlib import Path

import pytest
import tiny
from gloo_ranks import run_on_ranks
from silent_session import open_silently
from tiny_plans import compile_tiny

from gkdplan.runplan.codec import encode
from gkdplan.runplan.model import RunPlan
from gkdplan.runtime.executor import Executor
from gkdplan.runtime.saved.run_directory import read_metrics

VLLM = 'engine = "vllm"\ngpu_memory_utilization = 0.004'

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize("offload", ["none", "cpu"])
def test_they_are_the_same_as_without_the_engine(tmp_path, offload):
    """In steps on the teacher's samples, whose weights stay as they are, also where they wait on
    the host."""
    home = tmp_path / "home"
    home.mkdir()
    tiny.save_llama(home / "student", hidden=128, max_positions=256, seed=2)
    tiny.save_llama(home / "teacher", num_layers=3, hidden=128, max_positions=256, seed=1)
    tiny.save_rows(home / "rows.jsonl")
    drawn = {}
    for engine in ('engine = "megatron"', VLLM):
        plan = compile_tiny(
            home,
            tmp_path / engine[10:14],
            lmbda=0.5,
            seq_kd=1.0,
            steps=4,
            save_interval=4,
            held_out="[]",
            offload=offload,
            generation=engine,
        )
        run_on_ranks(_run, 1, encode(plan), only_once=True)
        drawn[engine] = _of_teacher(plan)
    assert len(drawn[VLLM]) >= 8
    assert drawn[VLLM] == drawn['engine = "megatron"']


def _of_teacher(plan: RunPlan) -> list[dict]:
    lines = read_metrics(Path(plan.training.output) / "completions.jsonl")
    assert {line["source"] for line in lines} == {"student", "teacher"}
    return [line for line in lines if line["source"] == "teacher"]


def _run(lock: str) -> None:
    Executor(open_silently(lock)).run(0)
