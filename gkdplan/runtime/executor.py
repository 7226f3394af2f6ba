"""Walks the run plan's steps, once for every global batch."""

import math
from itertools import takewhile
from typing import Any, assert_never

import torch
import torch.distributed as dist

from gkdplan.diagnostics import UserError
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
from gkdplan.runtime.ahead import Ahead
from gkdplan.runtime.evaluation import evaluate
from gkdplan.runtime.generating import generate, refit
from gkdplan.runtime.growth import growth
from gkdplan.runtime.guards import Guards, diverged, write_batch
from gkdplan.runtime.held_out_answers import answer_held_out
from gkdplan.runtime.megatron.load_balance import take_mean_loss
from gkdplan.runtime.read_aloud import read_aloud
from gkdplan.runtime.saved.saving import Saver
from gkdplan.runtime.session import Session
from gkdplan.runtime.step_examples import examples_of_rank
from gkdplan.runtime.step_state import StepState
from gkdplan.runtime.stopping import StopRequest
from gkdplan.runtime.student import student_forward
from gkdplan.runtime.summary import summarise
from gkdplan.runtime.teacher.resharding import reshard
from gkdplan.runtime.teaching import ask_teacher, run_teacher
from gkdplan.vocab import Phase, Source


class Executor:
    """Runs every step of the plan; the list that the outline prints is the list walked here."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.plan = session.plan
        self.ahead = Ahead(session)
        self.guards = Guards(session.plan)
        self.saver = Saver(session)

    def run(self, start_step: int, stop: StopRequest | None = None) -> dict[str, Any]:
        """Run the steps after `start_step` to the end and return the summary of the run; where the
        run is asked to stop, up to that step, which is saved, without a summary."""
        if start_step == 0:
            self._evaluate_before_training()
        elif self.plan.sampling.staleness:
            self.ahead.restore(self.session.directory.checkpoint(start_step))
        for step in range(start_step + 1, self.plan.training.num_steps + 1):
            self._run_step(step)
            self.saver.check()
            is_last = step == self.plan.training.num_steps
            if stop and not is_last and stop.is_seen_by_a_rank(self.session.mesh.device):
                return self._save_and_end(step)
        self.saver.finish()
        self.session.metrics.close()
        summary = summarise(self.session)
        if self.session.engine is not None:
            self.session.engine.close()
        return summary

    def _save_and_end(self, step: int) -> dict[str, Any]:
        for action in self.plan.steps:
            if isinstance(action, Checkpoint) and not self._is_due(action.interval, step):
                self._save(action, step)
        self.saver.finish()
        self.session.metrics.close()
        if self.session.engine is not None:
            self.session.engine.close()
        return {}

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
        if not state.is_skipped:
            held = max(self.session.phases.peak_bytes.values(), default=0)
            said = (step, state.source, state.loss, state.num_tokens, held)
            self.session.progress.finish_step(*said)

    def _walk(self, action: Step, state: StepState) -> None:
        phases = self.session.phases
        match action:
            case Draw():
                state.source = source_of_step(action, state.step)
                state.responses = [example.response or () for example in state.examples]
            case Refit():
                if state.source is Source.STUDENT and not self.ahead.has(state.step):
                    with phases.phase(Phase.REFIT):
                        refit(self.session, state.step)
            case Generate():
                if action.source is state.source:
                    with phases.phase(Phase.GENERATE):
                        generate(self.session, self.ahead, action, state)
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
                    run_teacher(self.session, state)
            case AskTeacher():
                with phases.phase(Phase.TEACHER):
                    ask_teacher(self.session, state)
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
                    self._evaluate(action, state.step)
                    read_aloud(self.session, state)
            case Checkpoint():
                if self._is_due(action.interval, state.step):
                    with phases.phase(Phase.CHECKPOINT):
                        self._save(action, state.step)
            case _:
                assert_never(action)

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
        balance = self.plan.models.student.load_balance
        if balance is not None:
            state.load_balance = take_mean_loss(self.session.trainer.chunks, balance)
        state.payloads.clear()

    def _optimizer_step(self, state: StepState) -> None:
        trainer = self.session.trainer
        state.grad_norm = trainer.step(is_finite=math.isfinite(state.loss))
        state.lr = trainer.lr
        if self.guards.is_to_be_skipped(state):
            self._skip(state)
        elif self.session.average is not None:
            self.session.average.update()

    def _skip(self, state: StepState) -> None:
        """Nothing was updated. Raises UserError (GK532) where the plan wants no more of this."""
        session, guards = self.session, self.guards
        batch = session.directory.skipped(state.step)
        write_batch(batch, state, session.mesh, session.chat)
        if guards.is_enough:
            raise UserError(diverged(state, guards.num_skipped, batch))
        state.is_skipped = True
        session.metrics.log_skipped(step=state.step, loss=state.loss, grad_norm=state.grad_norm)
        session.progress.tell(
            f"step {state.step} changed nothing: its loss is {state.loss} and its gradient's norm "
            f"{state.grad_norm}; its rows are in {batch}"
        )

    def _log(self, state: StepState) -> None:
        if state.is_skipped:
            return
        phases = self.session.phases
        planned = self.plan.ledger.phase_peaks
        measured = phases.peak_bytes_of_ranks(self.session.mesh.device)
        self.session.metrics.log_step(
            step=state.step,
            loss=state.loss,
            lr=state.lr,
            grad_norm=state.grad_norm,
            load_balance=state.load_balance,
            source=state.source,
            num_tokens=state.num_tokens,
            completion_tokens_mean=state.num_tokens / self.plan.batch.global_rows,
            time_s=dict(phases.seconds),
            peak_bytes=measured,
            planned_peak_bytes={p: planned[p] for p in measured if p in planned},
        )
        for line in growth(self.session, measured):
            self.session.progress.tell(f"step {state.step}: {line}")
        for code, words in self.guards.warnings(state):
            self.session.metrics.log_warning(step=state.step, code=code, message=words)
            self.session.progress.tell(f"step {state.step}: warning[{code}]: {words}")

    def _save(self, action: Checkpoint, step: int) -> None:
        responses = self.ahead.save(step) if self.plan.sampling.staleness else None
        self.saver.save(step, action, responses)

    def _is_due(self, interval: int | None, step: int) -> bool:
        return step == self.plan.training.num_steps or bool(interval and step % interval == 0)

    def _evaluate_before_training(self) -> None:
        for action in self.plan.steps:
            if isinstance(action, Evaluate):
                self._evaluate(action, step=0)

    def _evaluate(self, action: Evaluate, step: int) -> None:
        evaluate(self.session, step)
        if action.num_samples:
            answer_held_out(self.session, step, action.num_samples)
