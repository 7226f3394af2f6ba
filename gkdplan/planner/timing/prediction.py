"""A draft and its moves -> seconds of its phases and of its step."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from gkdplan.facts.model import Device
from gkdplan.planner.draft import Draft, sampling_roles
from gkdplan.planner.timing.assumptions import LIKELY, OUTLOOKS, assumptions_of
from gkdplan.planner.timing.exposure import SAMPLED, Work, hidden_s
from gkdplan.planner.timing.machine import Machine
from gkdplan.planner.timing.sampling import refit_seconds, sampling_seconds
from gkdplan.planner.timing.student import student_seconds
from gkdplan.planner.timing.teacher import teacher_seconds
from gkdplan.planner.timing.terms import STREAM
from gkdplan.planner.timing.update import optimizer_seconds
from gkdplan.runplan.draw import share_of_sources
from gkdplan.runplan.steps import Draw, Move
from gkdplan.runplan.timing import Seconds, Term, Timing
from gkdplan.vocab import Phase, Source

OFFLOAD = "exposed offload transfers"
Named = Mapping[Phase, Mapping[str, float]]


def predict(draft: Draft, moves: Sequence[Move], device: Device) -> Timing:
    """Seconds under favourable, likely and unfavourable assumptions, with the likely terms."""
    outlooks = [
        _named_seconds(draft, moves, _machine(draft, device, outlook)) for outlook in range(3)
    ]
    share = _sampled_share(draft)
    low, likely, high = outlooks
    step = Seconds(*(_step_s(named, share) for named in outlooks))
    num_tokens = draft.batch.global_rows * draft.sequence_tokens(draft.layout.student)
    return Timing(
        phases={
            phase: Seconds(*(sum(named[phase].values()) for named in (low, likely, high)))
            for phase in likely
        },
        step=step,
        sampled_share=share,
        tokens_per_s=num_tokens / step.likely,
        terms=tuple(
            Term(phase, name, seconds)
            for phase, terms in likely.items()
            for name, seconds in terms.items()
            if seconds > 0
        ),
        assumptions=assumptions_of(draft.layout.backend),
    )


def likely_step_s(draft: Draft, moves: Sequence[Move], device: Device) -> float:
    """What candidates are ranked by: `predict(...).step.likely`."""
    return likely_work(draft, device).step_s + sum(move.exposed_s for move in moves)


def likely_work(draft: Draft, device: Device) -> Work:
    """What copies can run beside."""
    return with_student(work_beside_student(draft, device), student_s(draft, device))


def work_beside_student(draft: Draft, device: Device) -> Work:
    """As `likely_work`, the student's phase left out."""
    machine = _machine(draft, device, LIKELY)
    return _work(draft, _other_phases(draft, machine))


def exposed_stream_s(draft: Draft, device: Device) -> float:
    """Likely seconds in which a streamed teacher's weights are waited for."""
    return teacher_seconds(draft, _machine(draft, device, LIKELY)).get(STREAM, 0.0)


def student_s(draft: Draft, device: Device) -> float:
    """Likely seconds of the student's phase, moves left out."""
    return sum(student_seconds(draft, _machine(draft, device, LIKELY)).values())


def with_student(work: Work, seconds: float) -> Work:
    return replace(work, seconds={**work.seconds, Phase.STUDENT: seconds})


def _machine(draft: Draft, device: Device, outlook: int) -> Machine:
    return Machine(device, draft.layout.devices_per_node, OUTLOOKS[device.backend][outlook])


def _work(draft: Draft, named: Named) -> Work:
    seconds = {phase: sum(terms.values()) for phase, terms in named.items()}
    return Work(seconds, _sampled_share(draft), hides_copies=draft.layout.backend == "nccl")


def _named_seconds(draft: Draft, moves: Sequence[Move], machine: Machine) -> Named:
    """The terms of every phase that a step can have; before a checkpoint only what moves counts."""
    phases = {**_other_phases(draft, machine), Phase.STUDENT: student_seconds(draft, machine)}
    named = {phase: dict(phases[phase]) for phase in Phase if phases.get(phase)}
    hidden = hidden_s(moves, _work(draft, named))
    for move, beside_work in zip(moves, hidden, strict=True):
        terms = named.setdefault(move.due or move.phase, {})
        terms[OFFLOAD] = terms.get(OFFLOAD, 0.0) + move.seconds - beside_work
    return named


def _other_phases(draft: Draft, machine: Machine) -> Named:
    """All that compute but the student's."""
    return {
        Phase.REFIT: refit_seconds(draft, machine),
        Phase.GENERATE: _generation(draft, machine),
        Phase.TEACHER: teacher_seconds(draft, machine),
        Phase.OPTIMIZER: optimizer_seconds(draft, machine),
    }


def _generation(draft: Draft, machine: Machine) -> Mapping[str, float]:
    """The mean over the steps that sample, whichever model does."""
    shares = _shares(draft)
    sampled = _sampled_share(draft)
    return {
        name: shares[source] / sampled * seconds
        for source, role in sampling_roles(draft)
        for name, seconds in sampling_seconds(draft, role, machine).items()
    }


def _step_s(named: Named, sampled_share: float) -> float:
    """The mean over the draw; a fetch before sampling is made in every step."""
    total = 0.0
    for phase, terms in named.items():
        for name, seconds in terms.items():
            is_drawn = phase in SAMPLED and name != OFFLOAD
            total += seconds * (sampled_share if is_drawn else 1.0)
    return total


def _shares(draft: Draft) -> Mapping[Source, float]:
    objective = draft.objective
    return share_of_sources(Draw(draft.training.seed, objective.lmbda, objective.seq_kd))


def _sampled_share(draft: Draft) -> float:
    shares = _shares(draft)
    return sum(shares[source] for source, _ in sampling_roles(draft))
