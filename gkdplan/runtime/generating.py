"""The steps that bring responses: new weights to an engine, and samples of a model."""

from gkdplan.runplan.steps import Generate
from gkdplan.runtime.ahead import Ahead
from gkdplan.runtime.megatron.adapters import merged_tensors
from gkdplan.runtime.responses import (
    completions_of_engine,
    log_completions,
    of_all_ranks,
    sample_responses,
)
from gkdplan.runtime.rollout.engine import Completion, SampleEngine
from gkdplan.runtime.session import Session
from gkdplan.runtime.step_examples import examples_of_rank, examples_of_step
from gkdplan.runtime.step_state import StepState
from gkdplan.vocab import Engine, Role


def refit(session: Session, step: int) -> None:
    """Bring the engine the student's weights as they are before the update of `step`."""
    assert session.engine is not None
    weights = merged_tensors(session.student, session.plan.models.student, session.mesh)
    session.engine.refit(weights, version=step - 1)


def generate(session: Session, ahead: Ahead, action: Generate, state: StepState) -> None:
    """Sample the step's responses, or take those that were sampled ahead, and log them."""
    if action.role is Role.STUDENT and ahead.has(state.step):
        sampled = ahead.take(state.step, num_updates=state.step - 1)
    elif action.engine is Engine.MEGATRON:
        sampled = _sampled_by_megatron(session, action.role, state.step)
    else:
        sampled = completions_of_engine(
            session,
            _engine_of(session, action.role),
            examples_of_step(session, state.step),
            session.plan.sampling,
            state.step,
            action.role,
        )
    completions = [sampled[example.row] for example in state.examples]
    state.responses = [completion.tokens for completion in completions]
    log_completions(session, state.step, state.source, state.examples, completions)


def _engine_of(session: Session, role: Role) -> SampleEngine:
    """What samples a model's responses outside of Megatron's modules."""
    if role is Role.TEACHER:
        return session.served_sampler
    assert session.engine is not None
    return session.engine


def _sampled_by_megatron(session: Session, role: Role, step: int) -> dict[int, Completion]:
    """By row, those of this rank's rows at least."""
    examples = examples_of_rank(session, step, role)
    responses = sample_responses(session, role, examples, session.plan.sampling, step)
    follows = role is Role.STUDENT or session.average is not None
    version = step - 1 if follows else 0
    sampled = {
        example.row: Completion(response, version)
        for example, response in zip(examples, responses, strict=True)
    }
    return of_all_ranks(sampled) if session.plan.layout.is_resharded else sampled
