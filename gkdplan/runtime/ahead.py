"""The next step's responses, drawn by the servers while a step trains."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gkdplan.runplan.draw import source_of_step
from gkdplan.runplan.steps import Draw
from gkdplan.runtime.data.examples import Example
from gkdplan.runtime.megatron.adapters import merged_tensors
from gkdplan.runtime.responses import of_all_ranks, requests_of_share
from gkdplan.runtime.rollout.engine import Completion
from gkdplan.runtime.rollout.served import ServedEngine
from gkdplan.runtime.saved.checkpoint import saved_responses
from gkdplan.runtime.session import Session
from gkdplan.runtime.step_examples import examples_of_step
from gkdplan.vocab import Source


@dataclass(slots=True)
class Ahead:
    """What is drawn, or being drawn, for a later step than the one that trains.

    `drawn` holds whole responses by step and row, on every rank; `asked` are this rank's examples
    of the step that the servers are working on.
    """

    session: Session
    drawn: dict[int, dict[int, Completion]] = field(default_factory=dict)
    asked: tuple[int, list[Example]] | None = None

    def has(self, step: int) -> bool:
        return step in self.drawn or (self.asked is not None and self.asked[0] == step)

    def begin(self, step: int) -> None:
        """Send the weights as they are before the update of the step before `step`, and have the
        responses of `step` drawn, if it is one and learns from them; collective over all ranks."""
        plan = self.session.plan
        draw = Draw(plan.training.seed, plan.objective.lmbda, plan.objective.seq_kd)
        is_over = step > plan.training.num_steps
        if is_over or source_of_step(draw, step) is not Source.STUDENT or self.has(step):
            return
        weights = merged_tensors(self.session.student, plan.models.student, self.session.mesh)
        self._engine.refit(weights, version=step - 2)
        examples, requests = requests_of_share(
            self.session, self._engine, examples_of_step(self.session, step), step
        )
        self._engine.begin(requests, plan.sampling)
        self.asked = step, examples

    def take(self, step: int, num_updates: int) -> dict[int, Completion]:
        """By row, the responses of `step`, waited for; collective over all ranks.

        Where all servers went away meanwhile, the rest is drawn by the weights as they are, after
        `num_updates` updates.
        """
        self._settle(num_updates)
        return self.drawn.pop(step)

    def save(self, num_updates: int) -> dict[str, Any]:
        """What of later steps is drawn, as JSON, once it is; collective over all ranks."""
        self._settle(num_updates)
        return {
            str(step): {str(row): [c.weights_version, *c.tokens] for row, c in of_step.items()}
            for step, of_step in self.drawn.items()
        }

    def restore(self, checkpoint: Path) -> None:
        """What `save` gave, from the checkpoint that it was written into."""
        for step, of_step in saved_responses(checkpoint).items():
            self.drawn[int(step)] = {
                int(row): Completion(tuple(tokens), version)
                for row, (version, *tokens) in of_step.items()
            }

    def _settle(self, num_updates: int) -> None:
        if self.asked is not None:
            (step, examples), self.asked = self.asked, None
            completions = self._engine.finish(num_updates)
            pairs = zip(examples, completions, strict=True)
            self.drawn[step] = of_all_ranks({example.row: c for example, c in pairs})

    @property
    def _engine(self) -> ServedEngine:
        engine = self.session.engine
        assert isinstance(engine, ServedEngine), "only servers draw ahead"
        return engine
