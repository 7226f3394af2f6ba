"""A real vLLM engine on the ranks samples for a student that sees: its weights and its images."""

from pathlib import Path

import pytest
from gloo_ranks import run_on_ranks
from silent_session import open_silently
from tiny_plans import compile_tiny
from tiny_vision import save_llava, save_qwen3_vl, save_qwen_vl, save_seeing_rows
from vllm_for_images import path_for_images

from gkdplan.runplan.codec import encode
from gkdplan.runtime.executor import Executor
from gkdplan.runtime.generating import refit
from gkdplan.runtime.responses import completions_of_engine, of_all_ranks, sample_responses
from gkdplan.runtime.step_examples import examples_of_rank, examples_of_step
from gkdplan.vocab import Role

NUM_STEPS = 2
VLLM = 'engine = "vllm"\ngpu_memory_utilization = 0.004'
ON_POLICY = {
    "lmbda": 1.0,
    "distill": "sampling_temperature = 0.0",
    "generation": VLLM,
    "steps": NUM_STEPS,
    "save_interval": NUM_STEPS,
}
PROJECTING = {"student": "freeze_projector = false"}
LORA = {"student": 'tuning = "lora"\n[student.lora]\nrank = 4\nalpha = 16.0'}
APART = f"{VLLM}\ntensor = 1"
CASES = {
    "llava, whose projector learns": ("llava", PROJECTING),
    "llava, an engine on both": ("llava", {"devices": 2, "generation": f"{VLLM}\ntensor = 2"}),
    "llava with adapters": ("llava", {"devices": 2, "tensor": 2, **LORA}),
    "qwen2.5-vl, whose merger learns": ("qwen-vl", PROJECTING),
    "qwen2.5-vl on stages": (
        "qwen-vl", {"devices": 2, "parallel": "pipeline = 2", "generation": APART}
    ),
    "qwen3-vl": ("qwen3-vl", {}),
    "qwen3-vl, an engine on both": (
        "qwen3-vl", {"devices": 2, "generation": f"{VLLM}\ntensor = 2"}
    ),
}  # fmt: skip
IN_EVERY_RUN = {"llava, whose projector learns"}

pytestmark = pytest.mark.timeout(600)


def make_home(kind: str, home: Path) -> Path:
    """Decoders with heads that vLLM knows on a CPU; rows with two images, one, and none."""
    for role, seed, layers in (("teacher", 1, 4), ("student", 2, 2)):
        sizes = {"num_layers": layers, "hidden": 128, "tied": role == "student", "seed": seed}
        match kind:
            case "llava":
                save_llava(home / role, **sizes)
            case "qwen-vl":
                save_qwen_vl(home / role, **sizes, sections=(4, 6, 6))
            case _:
                save_qwen3_vl(home / role, **sizes, sections=(6, 5, 5), head_dim=32)
    save_seeing_rows(home / "rows.jsonl")
    return home


@pytest.mark.parametrize(
    "case",
    [pytest.param(n, marks=() if n in IN_EVERY_RUN else pytest.mark.grid) for n in CASES],
)
def test_after_each_update_the_engine_samples_what_the_trainer_does(case, tmp_path):
    kind, changes = CASES[case]
    run_plan = compile_tiny(make_home(kind, tmp_path), tmp_path / "run", **{**ON_POLICY, **changes})
    ranks = run_plan.layout.world_size
    lock, path = encode(run_plan), path_for_images()
    run_on_ranks(_compare_in_every_step, ranks, lock, timeout_s=500, python_path=path)


def _compare_in_every_step(lock: str) -> None:
    session = open_silently(lock)
    assert {len(e.shown) for e in session.train.examples} == {0, 1, 2}
    executor = Executor(session)
    for step in range(1, NUM_STEPS + 1):
        _compare(session, step)
        executor._run_step(step)
    _compare(session, NUM_STEPS + 1)


def _compare(session, step: int) -> None:
    """Of the engine's greedy responses and those of the ranks' own modules, of the same weights."""
    refit(session, step)
    examples = examples_of_step(session, step)
    found = completions_of_engine(session, session.engine, examples, session.plan.sampling, step)
    mine = examples_of_rank(session, step)
    greedy = sample_responses(session, Role.STUDENT, mine, session.plan.sampling, step)
    of_trainer = of_all_ranks({e.row: r for e, r in zip(mine, greedy, strict=True)})
    assert {row: completion.tokens for row, completion in found.items()} == of_trainer
    assert {completion.weights_version for completion in found.values()} == {step - 1}
