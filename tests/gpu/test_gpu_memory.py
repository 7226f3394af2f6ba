"""The ledger beside the allocator of a GPU, of models so large that bytes are bytes of tensors.

A student of 0.5 B parameters learns from a teacher of 1.0 B that waits on the host, in bf16, from
rows of 1,280 tokens over 151,936 ids. Every row is as long as the plan allows, and every gradient
is clipped.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import drawn_models
import pytest
import torch
from real_step import build_real_step
from silent_session import open_silently
from tiny_plans import compile_plan_text

from gkdplan.runplan.codec import encode
from gkdplan.runplan.model import RunPlan
from gkdplan.runtime.executor import Executor
from gkdplan.runtime.phases import Phases
from gkdplan.vocab import Phase

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(180),
    pytest.mark.usefixtures("one_rank"),
]

GiB = 2**30
TOLERANCE = 0.05
NUM_STEPS = 3
PLAN = """
name = "real"
[cluster]
device = "h100-80gb"
kernels = "torch"
[student]
model = "{home}/student"
init = "random"
[student.recompute]
{recompute}
[teacher]
model = "{home}/teacher"
offload = "{offload}"
[distill]
lmbda = 1.0
[generation]
max_completion_length = {completion}
[data]
train = ["{home}/rows.jsonl"]
max_length = {prompt}
[batch]
micro = 4
global = 8
[optimizer]
clip_grad = 1e-6
[run]
output = "{home}/run"
steps = {steps}
"""
RECOMPUTE = {
    "nothing": "",
    "norms and MLP": 'granularity = "selective"\nmodules = ["layernorm", "mlp"]',
    "whole layers": 'granularity = "full"\nmethod = "uniform"\nnum_layers = 1',
}
ALLOCATOR = ("requested", "allocated", "reserved")
"""What tensors asked for, what they got in blocks, and what was taken from the device for them."""
OUTSIDE = "outside"
"""What the device has lost to anything but torch's allocator, at a phase's end."""


@pytest.fixture(scope="module")
def home(gpu, tmp_path_factory) -> Path:
    return drawn_models.make_home(tmp_path_factory.mktemp("drawn"), num_rows=8 * NUM_STEPS)


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """Nothing of another test on the device."""
    _clear()
    yield
    _clear()


def test_every_phase_of_a_run_is_what_the_ledger_says(home):
    """Sampling, the teacher's visits and a checkpoint among them; of the third step."""
    run_plan = _compile(home, "nothing", offload="cpu")
    before = torch.cuda.memory_allocated()
    session = open_silently(encode(run_plan))
    executor, measured = Executor(session), {}
    with _watched(measured):
        for step in range(1, NUM_STEPS + 1):
            executor._run_step(step)
    seconds = dict(session.phases.seconds)
    planned = _planned(run_plan)
    print(
        f"\n{'':10} {'planned':>9}" + "".join(f"{name:>10}" for name in (*ALLOCATOR, OUTSIDE)),
        end="",
    )
    print(f"{'error':>8} {'predicted':>10} {'measured':>9}   GiB and seconds")
    for phase, peaks in measured.items():
        shown = "".join(f"{num_bytes / GiB:10.3f}" for num_bytes in peaks.values())
        error = planned[phase] / (peaks["requested"] - before) - 1
        timed = run_plan.timing.phases.get(phase)
        predicted = f"{timed.likely:10.2f}" if timed else f"{'':10}"
        print(f"{phase:10} {planned[phase] / GiB:9.3f}{shown}{error:+8.1%} {predicted}", end="")
        print(f" {seconds[phase]:9.2f}")
    _print_what_lies_outside(run_plan, before)
    assert set(measured) == {*planned}
    for phase, peaks in measured.items():
        assert planned[phase] == pytest.approx(peaks["requested"] - before, rel=TOLERANCE), phase


@pytest.mark.parametrize("recompute", RECOMPUTE)
def test_recompute_keeps_what_the_ledger_says(recompute, home):
    """A step without data on random weights, as `gkdplan verify --trace` has it on fakes."""
    run_plan = _compile(home, recompute, offload="none")
    before = torch.cuda.memory_allocated()
    step, _ = build_real_step(run_plan)
    step.warm_up()
    step.run()
    planned = _planned(run_plan)
    errors = {}
    for phase, peak in step.peak_bytes.items():
        errors[phase] = planned[phase] / (peak - before) - 1
    print(f"\nrecompute of {recompute}: planned of the student's phase ", end="")
    print(f"{planned[Phase.STUDENT] / GiB:.3f} GiB;", end=" ")
    print(", ".join(f"{phase} {error:+.2%}" for phase, error in errors.items()))
    assert all(abs(error) <= TOLERANCE for error in errors.values())


def _compile(home: Path, recompute: str, offload: str) -> RunPlan:
    return compile_plan_text(
        PLAN.format(
            home=home,
            offload=offload,
            recompute=RECOMPUTE[recompute],
            prompt=drawn_models.PROMPT_TOKENS,
            completion=drawn_models.COMPLETION_TOKENS,
            steps=NUM_STEPS,
        )
    )


def _planned(run_plan: RunPlan) -> dict[Phase, int]:
    """Bytes of tensors by phase: the overhead is no tensor."""
    (memory,) = run_plan.ledger.classes
    return {
        phase: sum(n for row, n in of_phase.rows.items() if not row.startswith("overhead"))
        for phase, of_phase in memory.phases.items()
    }


@contextmanager
def _watched(measured: dict[Phase, dict[str, int]]) -> Iterator[None]:
    """The allocator's peaks of each phase, the latest step's."""
    phase_of_run = Phases.phase

    @contextmanager
    def phase(self: Phases, phase: Phase) -> Iterator[None]:
        with phase_of_run(self, phase):
            yield
        found = torch.cuda.memory_stats()
        measured[phase] = {
            **{name: found[f"{name}_bytes.all.peak"] for name in ALLOCATOR},
            OUTSIDE: _outside(),
        }

    with patch.object(Phases, "phase", phase):
        yield


def _print_what_lies_outside(run_plan: RunPlan, before: int) -> None:
    _, total = torch.cuda.mem_get_info()
    print(f"device {torch.cuda.get_device_name()}: {total / GiB:.2f} GiB, planned budget", end=" ")
    print(f"{run_plan.ledger.budget_bytes / GiB:.2f}; outside the allocator {_outside() / GiB:.3f}")
    torch._C._cuda_clearCublasWorkspaces()
    without = torch.cuda.memory_allocated()
    square = torch.ones(256, 256, device="cuda", dtype=torch.bfloat16)
    product = square @ square
    workspace = torch.cuda.memory_allocated() - without - square.nbytes - product.nbytes
    print(f"a cuBLAS workspace: {workspace / 2**20:.1f} MiB; before the test {before / 2**20:.1f}")
    pinned = torch.cuda.host_memory_stats()
    print("pinned host memory, GiB:", end=" ")
    print({k: round(v / GiB, 3) for k, v in pinned.items() if "bytes" in k and "current" in k})
    print(f"planned on the host: {run_plan.ledger.host_bytes_per_node / GiB:.3f}")


def _outside() -> int:
    free, total = torch.cuda.mem_get_info()
    return total - free - torch.cuda.memory_reserved()


def _clear() -> None:
    gc.collect()
    torch.cuda.empty_cache()
