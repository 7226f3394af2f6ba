"""A step traced on fake tensors: against the same step on real ones, and against the ledger."""

from pathlib import Path

import pytest
import tiny
import torch
import torch.distributed as dist
from gloo_ranks import run_on_ranks
from settled_collectives import settled
from tiny_plans import compile_tiny
from trace_grid import GRID, IN_EVERY_RUN, compile_configuration

from gkdplan.planner.draft import draft_of
from gkdplan.planner.memory.rank import rank_of_class
from gkdplan.report.trace import compare
from gkdplan.runplan.codec import decode, encode
from gkdplan.runtime.data.batch import Row
from gkdplan.runtime.data.deal import Deal
from gkdplan.runtime.executor import Executor
from gkdplan.runtime.megatron import platform
from gkdplan.runtime.megatron.mesh import close_mesh
from gkdplan.runtime.opening import open_session
from gkdplan.runtime.phases import Position
from gkdplan.runtime.progress import Progress
from gkdplan.runtime.trace import trace
from gkdplan.vocab import Phase, Role

TRACED = (Phase.TEACHER, Phase.STUDENT, Phase.OPTIMIZER)
FILLED = {"prompt": 40, "completion": 24, "truncation": "right", "steps": 2, "rows": 16, "micro": 2}
LAYOUTS = {
    "one process": {"devices": 1},
    "data, forward kl": {"devices": 2, "beta": 0.0},
    "data, optimizer replicated": {"devices": 2, "distributed": "false"},
    "tensor, logits": {"devices": 2, "tensor": 2, "payload": "logits"},
    "tensor, teacher on the host": {"devices": 2, "tensor": 2, "offload": "cpu"},
    "data, bf16, all that can rest": {"devices": 2, "dtype": "bf16", "offload": "cpu"}
    | {"optimizer": 'offload = "cpu"', "student": 'offload = "cpu"'},
    "gradients dropped, replicated": {"devices": 2, "distributed": "false"}
    | {"student": 'offload = "grads"', "optimizer": 'offload = "cpu"\nprefetch = true'},
}

TO_THE_BYTE = ("tiny dense fp32 pipeline 2 virtual 2",)
"""But for AdamW's counters of steps: one input held too many would be 0.8% of such a model."""

NAMES = [n if n in IN_EVERY_RUN else pytest.param(n, marks=pytest.mark.grid) for n in GRID]


@pytest.mark.parametrize("name", NAMES)
def test_the_ledger_is_within_a_hundredth_of_the_trace(name, tmp_path):
    limit = 0.0001 if name in TO_THE_BYTE else 0.01
    run_plan = compile_configuration(tmp_path, **GRID[name])
    for of_class in compare(run_plan, trace(run_plan)):
        phases = [phase for phase in of_class.phases if phase.error is not None]
        ranks = of_class.memory.ranks
        print(name, ranks, *(f"{phase.phase} {phase.error:+.3%}" for phase in phases), sep="  ")
        assert {phase.phase for phase in phases} == {*TRACED}
        for phase in phases:
            assert abs(phase.error) <= limit, f"{ranks} {phase.phase} misses by {phase.error:+.3%}"


@pytest.mark.parametrize("role", Role)
def test_tokens_are_priced_as_the_fullest_rank_holds_them(role, tmp_path):
    """Of a class in which not every rank of the teacher's context axis is."""
    name = "tiny dense of tensor 2 context 2 to bf16 pipeline 2 data 2"
    run_plan = compile_configuration(tmp_path, **GRID[name])
    degrees = getattr(run_plan.layout, role)
    batches = [[Row([0] * 96, [0] * 32)]] * run_plan.batch.global_rows
    for rank_class in run_plan.layout.classes:
        held = [
            sum(
                tensor.nbytes
                for batch in Deal(degrees, batches).micro_batches(rank, pad_id=0)
                for tensor in (batch.tokens_BS, batch.predict_N, batch.labels_N)
            )
            for rank in range(*rank_class.ranks[0])
        ]
        rank = rank_of_class(draft_of(run_plan), rank_class)
        assert rank.share(role).token_bytes == max(held)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Models with the proportions of real ones, and rows that fill the plan."""
    home = tmp_path_factory.mktemp("trace")
    tiny.save_qwen3(home / "teacher", num_layers=4, hidden=128, ffn=384, seed=1)
    tiny.save_llama(home / "student", num_layers=3, hidden=96, ffn=256, seed=2)
    tiny.save_rows(home / "rows.jsonl", [(q * 8, a * 8) for q, a in tiny.ROWS * 2])
    return home


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_trace_equals_a_step_on_real_tensors(layout, home, tmp_path):
    run_plan = compile_tiny(home, tmp_path / "run", **{**FILLED, **LAYOUTS[layout]})
    (peaks,) = trace(run_plan).values()
    traced = {str(phase): num_bytes for phase, num_bytes in peaks.items()}
    run_on_ranks(_check_two_steps, run_plan.layout.world_size, encode(run_plan), traced)


def _check_two_steps(lock: str, traced: dict[str, int]) -> None:
    run_plan = decode(lock)
    close_mesh()
    platform.prepare("gloo")
    Path(run_plan.training.output).mkdir(exist_ok=True)
    silent = Progress(run_plan, 0, shown=False, terminal=False)
    session = open_session(run_plan, 0, Position(0, "start"), silent)
    with settled():
        for step in (1, 2):
            Executor(session)._run_step(step)
    session.metrics.close()
    measured = session.phases.peak_bytes
    peaks = torch.tensor([measured[phase] for phase in TRACED])
    dist.all_reduce(peaks, dist.ReduceOp.MAX)
    for phase, peak_bytes in zip(TRACED, peaks.tolist(), strict=True):
        error = traced[phase] / peak_bytes - 1
        assert abs(error) <= 0.001, f"{phase}: the trace is off by {error:+.3%}"
