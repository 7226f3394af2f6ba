"""A draft and its moves -> seconds of its phases and of its step."""

from collections.abc import Mapping, Sequence

from gkdplan.facts.model import Device
from gkdplan.planner.draft import Draft, sampling_roles
from gkdplan.planner.timing.assumptions import LIKELY, OUTLOOKS, assumptions_of
from gkdplan.planner.timing.machine import Machine
from gkdplan.planner.timing.sampling import refit_seconds, sampling_seconds
from gkdplan.planner.timing.training import optimizer_seconds, student_seconds, teacher_seconds
from gkdplan.runplan.draw import share_of_sources
from gkdplan.runplan.steps import Draw, Move
from gkdplan.runplan.timing import Seconds, Term, Timing
from gkdplan.vocab import Phase, Source

OFFLOAD = "offload transfers"
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
    return without_student_s(draft, device) + student_s(draft, device) + moves_s(moves)


def without_student_s(draft: Draft, device: Device) -> float:
    """Likely seconds of a step's other phases, moves left out."""
    others = _other_phases(draft, _machine(draft, device, LIKELY))
    return _step_s(others, _sampled_share(draft))


def student_s(draft: Draft, device: Device) -> float:
    """Likely seconds of the student's phase, moves left out."""
    return sum(student_seconds(draft, _machine(draft, device, LIKELY)).values())


def moves_s(moves: Sequence[Move]) -> float:
    """Seconds of a step's moves."""
    return sum(move.seconds for move in moves)


def _machine(draft: Draft, device: Device, outlook: int) -> Machine:
    return Machine(device, draft.layout.devices_per_node, OUTLOOKS[device.backend][outlook])


def _named_seconds(draft: Draft, moves: Sequence[Move], machine: Machine) -> Named:
    """The terms of every phase that a step can have; before a checkpoint only what moves counts."""
    phases = {**_other_phases(draft, machine), Phase.STUDENT: student_seconds(draft, machine)}
    named = {phase: dict(phases[phase]) for phase in Phase if phases.get(phase)}
    for move in moves:
        terms = named.setdefault(move.phase, {})
        terms[OFFLOAD] = terms.get(OFFLOAD, 0.0) + move.seconds
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
            is_drawn = phase in (Phase.REFIT, Phase.GENERATE) and name != OFFLOAD
            total += seconds * (sampled_share if is_drawn else 1.0)
    return total


def _shares(draft: Draft) -> Mapping[Source, float]:
    objective = draft.objective
    return share_of_sources(Draw(draft.training.seed, objective.lmbda, objective.seq_kd))


def _sampled_share(draft: Draft) -> float:
    shares = _shares(draft)
    return sum(shares[source] for source, _ in sampling_roles(draft))
