"""What `gkdplan watch` shows of a run: how far it is, what it learns, and what it takes."""

from collections.abc import Sequence
from math import isfinite
from typing import Any

from gkdplan.report.run_record import RunRecord, StepRecord
from gkdplan.report.wrapping import wrap
from gkdplan.units import format_bytes
from gkdplan.vocab import Phase

BARS = "▁▂▃▄▅▆▇█"
RECENT = 10
"""Steps whose means say how fast a run is."""
_LABEL = 12


def watching(run: RunRecord, width: int = 80) -> str:
    """A snapshot of a run in lines of at most `width` columns."""
    rows = [("step", _progress(run))]
    if run.steps:
        losses = [step.loss for step in run.steps]
        curve = sparkline(losses, width - _LABEL - 22)
        rows.append(("loss", f"{curve}  {losses[0]:.4f} -> {losses[-1]:.4f}"))
        rows.append(("speed", _speed(run.steps[-RECENT:])))
    if len(run.evaluations) > 1:
        first, last = run.evaluations[0], run.evaluations[-1]
        rows.append(("held-out", f"JSD {first.jsd:.4f} -> {last.jsd:.4f} after step {last.step}"))
    if run.measured_peak_bytes:
        rows.append(("memory", _memory(run)))
    if run.completions:
        last_said = run.completions[-1]
        said = " ".join(last_said.completion.split())[: 2 * width]
        rows.append((str(last_said.source), f"{said!r}"))
    return "\n".join(wrap(label.ljust(_LABEL), text, width) for label, text in rows)


def watching_json(run: RunRecord) -> dict[str, Any]:
    """The same figures; seconds and bytes."""
    last = run.steps[-1] if run.steps else None
    return {
        "step": last.step if last else 0,
        "num_steps": run.run_plan.training.num_steps,
        "loss": last.loss if last else None,
        "remaining_s": remaining_s(run),
        "tokens_per_s": tokens_per_s(run.steps[-RECENT:]),
        "peak_bytes": {str(phase): peak for phase, peak in run.measured_peak_bytes.items()},
    }


def is_finished(run: RunRecord) -> bool:
    """Whether the last step is there."""
    return bool(run.steps) and run.steps[-1].step >= run.run_plan.training.num_steps


def remaining_s(run: RunRecord) -> float | None:
    """Steps that are left, at the pace of recent ones; None before the first."""
    recent = run.steps[-RECENT:]
    if not recent:
        return None
    num_left = run.run_plan.training.num_steps - recent[-1].step
    return num_left * sum(map(_seconds, recent)) / len(recent)


def tokens_per_s(steps: Sequence[StepRecord]) -> float | None:
    """Response tokens that are learnt from, of all ranks together."""
    seconds = sum(map(_seconds, steps))
    return sum(step.num_tokens for step in steps) / seconds if seconds else None


def sparkline(values: Sequence[float], width: int) -> str:
    """The last `width` finite values as bars between the smallest and the largest of them."""
    shown = [value for value in values if isfinite(value)][-max(1, width) :]
    low, high = min(shown, default=0.0), max(shown, default=0.0)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((value - low) * scale)] for value in shown)


def _progress(run: RunRecord) -> str:
    num_steps = run.run_plan.training.num_steps
    if not run.steps:
        return f"0 of {num_steps}: it has not finished a step"
    last = run.steps[-1]
    left = remaining_s(run)
    end = "finished" if is_finished(run) else f"{_time(left or 0.0)} left"
    return f"{last.step} of {num_steps}, from the {last.source}, {end}"


def _speed(recent: Sequence[StepRecord]) -> str:
    phases = [phase for phase in map(str, Phase) if any(step.seconds.get(phase) for step in recent)]
    shares = ", ".join(
        f"{phase} {sum(step.seconds.get(phase, 0.0) for step in recent) / len(recent):.2f} s"
        for phase in phases
    )
    return f"{tokens_per_s(recent) or 0.0:,.0f} response tokens/s; {shares}"


def _memory(run: RunRecord) -> str:
    """The fullest measured phase beside what was planned of it."""
    phase, measured = max(run.measured_peak_bytes.items(), key=lambda peak: peak[1])
    planned = max(
        each.phases[phase].peak_bytes
        for each in run.run_plan.ledger.classes
        if phase in each.phases
    )
    return f"peak {format_bytes(measured)} in {phase}, {format_bytes(planned)} planned"


def _seconds(step: StepRecord) -> float:
    return sum(step.seconds.values())


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
