"""Walks the run plan's steps, once for every global batch."""

from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, assert_never

import torch
import torch.distributed as dist

from gkdplan.diagnostics import UserError, error
from gkdplan.runplan.draw import source_of_step
from gkdplan.runplan.steps import (
    AskTeacher,
    Await,
    Checkpoint,
    Draw,
    Evaluate,
    Generate,
    GenerateAhead,
    Move,
    OptimizerStep,
    Refit,
    Reshard,
    Step,
    StudentStep,
    TakeSamples,
    TeacherForward,
)
from gkdplan.runtime import checkpoint
from gkdplan.runtime.ahead import Ahead
from gkdplan.runtime.data.batch import MicroBatch, Row
from gkdplan.runtime.data.examples import Example
from gkdplan.runtime.evaluation import evaluate
from gkdplan.runtime.growth import growth
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
from gkdplan.runtime.student import student_forward
from gkdplan.runtime.summary import summarise
from gkdplan.runtime.teacher.payload import TeacherPayload, teacher_payloads
from gkdplan.runtime.teacher.resharding import Resharding, reshard, resharding_of
from gkdplan.runtime.teacher.server import question_of
from gkdplan.vocab import Engine, Phase, Role, Source


@dataclass(slots=True)
class StepState:
    """What the actions of one step hand to each other on one rank.

    `examples` and `responses` are this rank's rows in order, micro-batch after micro-batch.
    """

    step: int
    examples: list[Example]
    source: Source = Source.DATASET
    responses: list[tuple[int, ...]] = field(default_factory=list)
    micro_batches: list[MicroBatch] = field(default_factory=list)
    payloads: list[TeacherPayload | None] = field(default_factory=list)
    resharding: Resharding | None = None
    num_tokens: int = 0
    loss: float = 0.0
    lr: float = 0.0
    grad_norm: float = 0.0


class Executor:
    """Runs every step of the plan; the list that the outline prints is the list walked here."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.plan = session.plan
        self.ahead = Ahead(session)

    def run(self, start_step: int) -> dict[str, Any]:
        """Run the steps after `start_step` to the end and return the summary of the run."""
        if start_step == 0:
            self._evaluate_before_training()
        elif self.plan.sampling.staleness:
            self.ahead.restore(self.session.directory.checkpoint(start_step))
        for step in range(start_step + 1, self.plan.training.num_steps + 1):
            self._run_step(step)
        self.session.metrics.close()
        summary = summarise(self.session)
        if self.session.engine is not None:
            self.session.engine.close()
        return summary

    def learn(self, step: int) -> StepState:
        """The step up to its update: gradients are left where the update would find them."""
        state = StepState(step, examples_of_rank(self.session, step))
        for action in takewhile(lambda a: not isinstance(a, OptimizerStep), self.plan.steps):
            self._walk(action, state)
        return state

    def _run_step(self, step: int) -> None:
        state = StepState(step, examples_of_rank(self.session, step))
        with self.session.phases.step(step):
            for action in self.plan.steps:
                self._walk(action, state)
        self.session.progress.finish_step(step, state.source, state.loss, state.num_tokens)

    def _walk(self, action: Step, state: StepState) -> None:
        phases = self.session.phases
        match action:
            case Draw():
                state.source = source_of_step(action, state.step)
                state.responses = [example.response or () for example in state.examples]
            case Refit():
                if state.source is Source.STUDENT and not self.ahead.has(state.step):
                    with phases.phase(Phase.REFIT):
                        self._refit(state.step)
            case Generate():
                if action.source is state.source:
                    with phases.phase(Phase.GENERATE):
                        self._generate(action, state)
            case GenerateAhead():
                with phases.phase(Phase.REFIT):
                    self.ahead.begin(state.step + 1)
            case TakeSamples():
                if action.source is state.source:
                    samples = self.session.samples
                    state.responses = [tuple(samples[e.row]) for e in state.examples]
            case Move():
                with phases.moves_before(action.phase):
                    self.session.residency.apply(action)
            case Await():
                with phases.moves_before(action.phase):
                    self.session.residency.await_copy(action.object)
            case TeacherForward():
                with phases.phase(Phase.TEACHER):
                    self._teacher_forward(state)
            case AskTeacher():
                with phases.phase(Phase.TEACHER):
                    self._ask_teacher(state)
            case Reshard():
                assert state.resharding is not None
                with phases.phase(Phase.TEACHER), torch.no_grad():
                    device = self.session.mesh.device
                    state.payloads = reshard(state.resharding, state.payloads, device)
            case StudentStep():
                with phases.phase(Phase.STUDENT):
                    self._student_step(state)
            case OptimizerStep():
                with phases.phase(Phase.OPTIMIZER):
                    self._optimizer_step(state)
                self._log(state)
            case Evaluate():
                if self._is_due(action.interval, state.step):
                    evaluate(self.session, state.step)
            case Checkpoint():
                if self._is_due(action.interval, state.step):
                    with phases.phase(Phase.CHECKPOINT):
                        self._save(action, state.step)
            case _:
                assert_never(action)

    def _refit(self, step: int) -> None:
        session, plan = self.session, self.plan
        assert session.engine is not None
        weights = merged_tensors(session.student, plan.models.student, session.mesh)
        session.engine.refit(weights, version=step - 1)

    def _generate(self, action: Generate, state: StepState) -> None:
        if action.role is Role.STUDENT and self.ahead.has(state.step):
            sampled = self.ahead.take(state.step, num_updates=state.step - 1)
        elif action.engine is Engine.MEGATRON:
            sampled = self._sampled_by_megatron(action.role, state.step)
        else:
            engine = self._engine_of(action.role)
            examples = examples_of_step(self.session, state.step)
            sampled = completions_of_engine(
                self.session, engine, examples, self.plan.sampling, state.step
            )
        completions = [sampled[example.row] for example in state.examples]
        state.responses = [completion.tokens for completion in completions]
        log_completions(self.session, state.step, state.source, state.examples, completions)

    def _engine_of(self, role: Role) -> SampleEngine:
        """What samples a model's responses outside of Megatron's modules."""
        if role is Role.TEACHER:
            return self.session.served_sampler
        assert self.session.engine is not None
        return self.session.engine

    def _sampled_by_megatron(self, role: Role, step: int) -> dict[int, Completion]:
        """By row, those of this rank's rows at least."""
        examples = examples_of_rank(self.session, step, role)
        responses = sample_responses(self.session, role, examples, self.plan.sampling, step)
        version = step - 1 if role is Role.STUDENT else 0
        sampled = {
            example.row: Completion(response, version)
            for example, response in zip(examples, responses, strict=True)
        }
        return of_all_ranks(sampled) if self.plan.layout.is_resharded else sampled

    def _teacher_forward(self, state: StepState) -> None:
        if self.plan.layout.is_resharded:
            batches = self._batches_of_all_ranks(state)
            state.resharding = resharding_of(self.plan, batches, self.plan.objective.payload)
            state.micro_batches = self.session.deal(Role.STUDENT, batches)
            of_teacher = self.session.deal(Role.TEACHER, batches)
        else:
            rows = [(e.prompt, r) for e, r in zip(state.examples, state.responses, strict=True)]
            of_teacher = state.micro_batches = self.session.micro_batches(rows)
        state.num_tokens = self._count_tokens(state.micro_batches)
        state.payloads = teacher_payloads(self.session.distillation, of_teacher)

    def _ask_teacher(self, state: StepState) -> None:
        rows = [(e.prompt, r) for e, r in zip(state.examples, state.responses, strict=True)]
        state.micro_batches = self.session.micro_batches(rows)
        state.num_tokens = self._count_tokens(state.micro_batches)
        size = self.plan.batch.micro_rows
        questions = list(map(question_of, state.examples, state.responses))
        batches = [questions[start : start + size] for start in range(0, len(questions), size)]
        state.payloads = self.session.served_teacher.payloads(batches)

    def _batches_of_all_ranks(self, state: StepState) -> list[list[Row]]:
        """The micro-batches of the global batch, in order."""
        mine = zip(state.examples, state.responses, strict=True)
        responses = of_all_ranks({example.row: response for example, response in mine})
        examples, size = examples_of_step(self.session, state.step), self.plan.batch.micro_rows
        rows: list[Row] = [(example.prompt, responses[example.row]) for example in examples]
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    def _count_tokens(self, micro_batches: list[MicroBatch]) -> int:
        """Response tokens of the global batch: the one denominator of its loss."""
        count = torch.tensor(
            sum(batch.num_response_tokens for batch in micro_batches),
            device=self.session.mesh.device,
        )
        dist.all_reduce(count, group=self.session.mesh.data_group)
        return int(count)

    def _student_step(self, state: StepState) -> None:
        pairs = list(zip(state.micro_batches, state.payloads, strict=True))
        distillation, num_tokens = self.session.distillation, state.num_tokens
        is_labelled = state.source is Source.DATASET
        sft_alpha = distillation.objective.sft_alpha if is_labelled else 0.0
        loss = self.session.trainer.forward_backward(
            pairs,
            lambda chunk, pair: student_forward(distillation, chunk, *pair, num_tokens, sft_alpha),
            shape=tuple(state.micro_batches[0].tokens_BS.shape),
        )
        dist.all_reduce(loss, group=self.session.mesh.data_group)
        state.loss = float(loss)
        state.payloads.clear()

    def _optimizer_step(self, state: StepState) -> None:
        trainer = self.session.trainer
        state.grad_norm = trainer.step()
        state.lr = trainer.lr
        if not torch.isfinite(torch.tensor([state.loss, state.grad_norm])).all():
            raise UserError(
                error(
                    "GK532",
                    f"step {state.step} has a loss of {state.loss} "
                    f"and a gradient norm of {state.grad_norm}",
                    "optimizer.lr",
                    label="training diverged, so it stops before it saves",
                    help=(
                        "lower `optimizer.lr`, raise `optimizer.warmup_fraction`, "
                        "or set `optimizer.clip_grad`",
                    ),
                )
            )

    def _log(self, state: StepState) -> None:
        phases = self.session.phases
        planned = self.plan.ledger.phase_peaks
        measured = phases.peak_bytes_of_ranks(self.session.mesh.device)
        self.session.metrics.log_step(
            step=state.step,
            loss=state.loss,
            lr=state.lr,
            grad_norm=state.grad_norm,
            source=state.source,
            num_tokens=state.num_tokens,
            completion_tokens_mean=state.num_tokens / self.plan.batch.global_rows,
            time_s=dict(phases.seconds),
            peak_bytes=measured,
            planned_peak_bytes={p: planned[p] for p in measured if p in planned},
        )
        for line in growth(self.session, measured):
            self.session.progress.tell(f"step {state.step}: {line}")

    def _save(self, action: Checkpoint, step: int) -> None:
        checkpoint.save(
            self.session.directory,
            step,
            self.plan,
            self.session.trainer,
            self.session.mesh,
            source=self.session.student_source,
            keep=action.keep,
            responses=self.ahead.save(step) if self.plan.sampling.staleness else None,
        )

    def _is_due(self, interval: int | None, step: int) -> bool:
        return step == self.plan.training.num_steps or bool(interval and step % interval == 0)

    def _evaluate_before_training(self) -> None:
        if any(isinstance(action, Evaluate) for action in self.plan.steps):
            evaluate(self.session, 0)
