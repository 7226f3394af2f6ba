"""How a finished run did: held-out figures before and after, and a sample of each model."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gkdplan.runplan.sampling import Sampling
from gkdplan.runtime.data.examples import Example
from gkdplan.runtime.responses import completions_of_engine, sample_responses
from gkdplan.runtime.saved.run_directory import read_metrics
from gkdplan.runtime.session import Session
from gkdplan.vocab import Engine, Role


def summarise(session: Session) -> dict[str, Any]:
    """`held_out_before`, `held_out_after`, `memory`, `skipped_steps`, `warnings` and `samples`, as
    `RunResult.summary`, on rank 0.

    Every rank takes part. Held-out figures are read back from metrics.jsonl, so that a resumed run
    still knows how it began; ranks that do not write it may not see its last lines.
    """
    session.phases.enter("sample")
    lines = read_metrics(session.directory.metrics)
    evaluations = [line["eval"] for line in lines if "eval" in line]
    return {
        "held_out_before": evaluations[0] if evaluations else None,
        "held_out_after": evaluations[-1] if evaluations else None,
        "memory": _memory(lines),
        "skipped_steps": [line["step"] for line in lines if "skipped" in line],
        "warnings": _warnings(lines),
        "samples": _samples(session) if session.plan.sampling.engine is not Engine.NONE else {},
    }


def _warnings(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{"step": line["step"], **line["warning"]} for line in lines if "warning" in line]


def _memory(lines: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Of each phase the largest measured peak of a rank, beside the planned one."""
    memory: dict[str, dict[str, int]] = {}
    for line in lines:
        for phase, planned in line.get("planned_peak_bytes", {}).items():
            before = memory.get(phase, {}).get("measured_bytes", 0)
            measured = max(before, line["peak_bytes"][phase])
            memory[phase] = {"planned_bytes": planned, "measured_bytes": measured}
    return memory


def _samples(session: Session) -> dict[str, dict[str, str]]:
    """A greedy response of each model to the first held-out prompt, or the first prompt; of a
    streamed teacher none, which would come from the host for every token."""
    example = (session.held_out.examples or session.train.examples)[0]
    greedy = replace(session.plan.sampling, temperature=0.0)
    is_streamed = session.plan.models.teacher.stream
    roles = (Role.STUDENT,) if is_streamed else (Role.TEACHER, Role.STUDENT)
    with session.residency.frozen_on_device():
        responses = {role: _respond(session, role, example, greedy) for role in roles}
    return {
        str(role): {"prompt": example.question, "completion": session.chat.decode(response)}
        for role, response in responses.items()
    }


def _respond(session: Session, role: Role, example: Example, sampling: Sampling) -> tuple[int, ...]:
    if role is Role.TEACHER and session.plan.models.teacher.server is not None:
        sampler = session.served_sampler
        return completions_of_engine(session, sampler, [example], sampling, step=0)[
            example.row
        ].tokens
    return sample_responses(session, role, [example], sampling, step=0)[0]
