"""Real runs whose rows fill the plan: what every phase holds, and what moves, beside the plan."""

from pathlib import Path
from unittest.mock import patch

import pytest
import tiny
from gloo_ranks import run_on_ranks
from settled_collectives import settled
from silent_session import open_silently
from tiny_plans import compile_tiny

from gkdplan.runplan.codec import encode
from gkdplan.runplan.steps import Move
from gkdplan.runtime.executor import Executor
from gkdplan.runtime.residency import Residency
from gkdplan.runtime.saved.run_directory import read_metrics
from gkdplan.vocab import Phase

FILLED = {"prompt": 40, "completion": 24, "truncation": "right", "steps": 2, "rows": 8}
FILLED |= {"held_out": "[]"}
TWO, FOUR = {"devices": 2}, {"devices": 4}
LORA = {"student": 'tuning = "lora"'}
BF16 = {"dtype": "bf16"}
LOGITS, TOP_K = {"payload": "logits"}, {"payload": "top_k", "distill": "top_k = 8"}
OFFLOADED, STREAMED = {"offload": "cpu"}, {"offload": "cpu", "prefetch": "stream = true"}
STATE = {"optimizer": 'offload = "cpu"'}
STATE_EARLY = {"optimizer": 'offload = "cpu"\nprefetch = true'}
RESTS, DROPPED = {"student": 'offload = "cpu"'}, {"student": 'offload = "grads"'}
LORA_RESTS = {"student": 'offload = "cpu"\ntuning = "lora"'}
AS_IT_BEGAN = {"teacher_model": 'self = "initial"', "distill": "sft_alpha = 1.0"}
AVERAGE = {"teacher_model": 'self = "ema"\ndecay = 0.5', "distill": "sft_alpha = 1.0"}
WHOLE_LAYERS = {"recompute": 'granularity = "full"\nmethod = "uniform"\nnum_layers = 1', "micro": 8}
"""With so many rows that activations are the peak, not the reduction of gradients: what gloo copies
for it is out of the meter's sight (settled_collectives.py)."""
MODULES = {"recompute": 'granularity = "selective"\nmodules = ["core_attn", "mlp"]'}
TENSOR = TWO | {"tensor": 2}
PIPELINE = TWO | {"parallel": "pipeline = 2"}
CONTEXT = TWO | {"parallel": "context = 2"}
CONFIGURATIONS = {
    "nothing": {},
    "logits": LOGITS,
    "top k": TOP_K,
    "bf16": BF16,
    "bf16, logits": BF16 | LOGITS,
    "teacher on the host": OFFLOADED,
    "teacher streamed": STREAMED,
    "teacher streamed, logits": STREAMED | LOGITS,
    "teacher streamed, top k": STREAMED | TOP_K,
    "state on the host": STATE,
    "state on the host, fetched early": STATE_EARLY,
    "both on the host": OFFLOADED | STATE,
    "teacher streamed, state on the host": STREAMED | STATE,
    "bf16, teacher streamed, state on the host": BF16 | STREAMED | STATE,
    "adapters": LORA,
    "adapters, bf16": LORA | BF16,
    "adapters, logits": LORA | LOGITS,
    "adapters, teacher streamed": LORA | STREAMED,
    "adapters, both on the host": LORA | OFFLOADED | STATE,
    "whole layers again": WHOLE_LAYERS,
    "modules again": MODULES,
    "adapters, whole layers again": LORA | WHOLE_LAYERS,
    "whole layers again, teacher streamed": WHOLE_LAYERS | STREAMED,
    "tensor": TENSOR,
    "tensor, both on the host": TENSOR | OFFLOADED | STATE,
    "tensor, teacher streamed, logits": TENSOR | STREAMED | LOGITS,
    "tensor, adapters": TENSOR | LORA,
    "tensor, top k": TENSOR | TOP_K,
    "pipeline": PIPELINE,
    "pipeline, teacher streamed, state on the host": PIPELINE | STREAMED | STATE,
    "context": CONTEXT,
    "context, teacher on the host": CONTEXT | OFFLOADED,
    "data": TWO,
    "data, replicated, state on the host": TWO | STATE | {"distributed": "false"},
    "data, bf16, both on the host": TWO | BF16 | OFFLOADED | STATE,
    "tensor over pipeline": FOUR | {"tensor": 2, "parallel": "pipeline = 2"},
    "tensor over data, streamed": FOUR | {"tensor": 2} | STREAMED | STATE,
    "tensor over context": FOUR | {"tensor": 2, "parallel": "context = 2"},
    "data over pipeline, adapters": FOUR | {"parallel": "pipeline = 2"} | LORA,
    "student rests": RESTS,
    "gradients dropped, logits": DROPPED | LOGITS,
    "student rests, teacher streamed, state on the host": RESTS | STREAMED | STATE,
    "student rests, both on the host, whole layers again": RESTS | OFFLOADED | STATE | WHOLE_LAYERS,
    "adapters that rest, bf16, state on the host": LORA_RESTS | BF16 | STATE,
    "as it began": AS_IT_BEGAN,
    "as it began, on the host, bf16": AS_IT_BEGAN | OFFLOADED | BF16,
    "its average, bf16": AVERAGE | BF16,
    "its average on the host, bf16": AVERAGE | OFFLOADED | BF16,
    "its average on the host, student rests": AVERAGE | OFFLOADED | RESTS,
    "data, bf16, all that can rest": TWO | BF16 | RESTS | OFFLOADED | STATE,
    "data, its average on the host, bf16": TWO | AVERAGE | OFFLOADED | BF16,
    "tensor, student rests, state fetched early": TENSOR | RESTS | STATE_EARLY,
    "pipeline, bf16, gradients dropped, state on the host": PIPELINE | BF16 | DROPPED | STATE,
    "context, student rests": CONTEXT | RESTS,
    "tensor over pipeline, all that can rest": FOUR
    | {"tensor": 2, "parallel": "pipeline = 2"}
    | (RESTS | STREAMED | STATE),
}
IN_EVERY_RUN = {
    "bf16, teacher streamed, state on the host",
    "tensor, both on the host",
    "its average on the host, student rests",
}
TOLERANCE = 0.02


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Models large enough that their tensors, not Python's odds and ends, are what is counted."""
    home = tmp_path_factory.mktemp("measured")
    tiny.save_qwen3(home / "teacher", num_layers=8, hidden=128, ffn=512, seed=1)
    tiny.save_llama(home / "student", num_layers=4, hidden=128, ffn=384, seed=2)
    tiny.save_rows(home / "rows.jsonl", [(q * 8, a * 8) for q, a in tiny.ROWS])
    return home


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in IN_EVERY_RUN else pytest.mark.grid) for n in CONFIGURATIONS],
)
def test_every_phase_holds_what_is_planned_and_what_moves_is_what_is_scheduled(
    name, home, tmp_path
):
    run_plan = compile_tiny(home, tmp_path / "run", **FILLED | CONFIGURATIONS[name])
    run_on_ranks(_run, run_plan.layout.world_size, encode(run_plan))
    lines = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss" in line]
    planned = run_plan.ledger.phase_peaks
    errors = {
        phase: lines[1]["peak_bytes"][phase] / planned[phase] - 1
        for phase in (Phase.TEACHER, Phase.STUDENT, Phase.OPTIMIZER)
    }
    print(name, *(f"{phase} {error:+.3%}" for phase, error in errors.items()), sep="  ")
    assert all(abs(error) <= TOLERANCE for error in errors.values()), errors


def _run(lock: str) -> None:
    session = open_silently(lock)
    moved: list[Move] = []
    apply = Residency.apply

    def seen(residency: Residency, move: Move) -> None:
        moved.append(move)
        apply(residency, move)

    with settled(), patch.object(Residency, "apply", seen):
        executor = Executor(session)
        for step in (1, 2):
            executor._run_step(step)
    session.metrics.close()
    assert moved == [*session.plan.schedule.moves] * 2
