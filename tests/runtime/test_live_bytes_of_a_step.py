"""The meter against a trace of the CPU allocator, over a whole step of Megatron models."""

from pathlib import Path

import torch
from gloo_ranks import run_on_ranks
from silent_session import open_silently
from tiny_plans import compile_tiny, make_home
from torch.profiler import ProfilerActivity, profile

from gkdplan.runplan.codec import encode
from gkdplan.runplan.steps import Checkpoint
from gkdplan.runtime.executor import Executor
from gkdplan.runtime.live_bytes import LiveBytes
from gkdplan.runtime.step_examples import examples_of_rank
from gkdplan.runtime.step_state import StepState


def test_the_meter_sees_what_the_allocator_hands_out(tmp_path: Path) -> None:
    """Two response tokens a row: the peak lies in the backward of the layers, not in the loss."""
    run_plan = compile_tiny(make_home(tmp_path / "tiny"), tmp_path / "run", completion=2, micro=8)
    run_on_ranks(_compare, 1, encode(run_plan))


def _compare(lock: str) -> None:
    executor = Executor(open_silently(lock))
    with executor.session.phases.meter:
        _step(executor, 1)  # makes what stays: the optimizer's state
    seen = executor.session.phases.meter
    executor.session.phases.meter = LiveBytes(torch.device("cpu"))  # phases would mark `seen`
    with seen:
        seen.mark_phase()
        before = seen.current_bytes
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
            _step(executor, 2)
        peak = seen.peak_bytes - before
    allocated = _peak_of(trace)
    assert 0 <= allocated - peak <= 0.01 * allocated, (peak, allocated)


def _step(executor: Executor, step: int) -> None:
    state = StepState(step, examples_of_rank(executor.session, step))
    executor.session.trainer._ddps[0].zero_grad_buffer()
    for action in executor.plan.steps:
        if not isinstance(action, Checkpoint):
            executor._walk(action, state)


def _peak_of(trace: profile) -> int:
    """The most bytes between the trace's start and any moment of it."""
    events = [e for e in trace.profiler.kineto_results.events() if e.name() == "[memory]"]
    current, peak = 0, 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        current += event.nbytes()
        peak = max(peak, current)
    return peak
