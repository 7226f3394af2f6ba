"""What a run looks at after each step: numbers that are not finite, a gradient that grows, empty
responses."""

import json
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from gkdplan.diagnostics import Diagnostic, error
from gkdplan.runplan.model import RunPlan
from gkdplan.runtime.data.chat import Chat
from gkdplan.runtime.megatron.mesh import Mesh
from gkdplan.runtime.step_state import StepState
from gkdplan.vocab import Source

DIVERGED, RISING, EMPTY = "GK532", "GK574", "GK573"
REMEMBERED = 50
FEWEST = 10
"""Steps whose gradients are compared with a new one, and the fewest that make a comparison."""
TIMES = 10.0
"""A gradient that is as many times the median before it is worth a word."""


@dataclass(slots=True)
class Guards:
    """Of one rank; all ranks see the same numbers and decide alike."""

    run_plan: RunPlan
    num_skipped: int = 0
    """Steps in a row that were left out."""
    norms: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    warned: set[str] = field(default_factory=set)

    def is_to_be_skipped(self, state: StepState) -> bool:
        """Whether the step's update was left out; raises nothing."""
        is_skipped = not (math.isfinite(state.loss) and math.isfinite(state.grad_norm))
        self.num_skipped = self.num_skipped + 1 if is_skipped else 0
        return is_skipped

    @property
    def is_enough(self) -> bool:
        """Whether more steps in a row were left out than the plan allows."""
        return self.num_skipped > self.run_plan.training.max_skipped_steps

    def warnings(self, state: StepState) -> Iterator[tuple[str, str]]:
        """Codes and words of what the step's numbers warn of: each code when it begins."""
        found = dict(self._warnings(state))
        for code, words in found.items():
            if code not in self.warned:
                yield code, words
        self.warned = set(found)
        self.norms.append(state.grad_norm)

    def _warnings(self, state: StepState) -> Iterator[tuple[str, str]]:
        usual = median(self.norms) if len(self.norms) >= FEWEST else math.inf
        if state.grad_norm > TIMES * usual:
            yield (
                RISING,
                f"the gradient's norm is {state.grad_norm:.3g}, {state.grad_norm / usual:.0f} "
                f"times the median of the {len(self.norms)} steps before",
            )
        num_rows, sampling = self.run_plan.batch.global_rows, self.run_plan.sampling
        is_sampled = state.source is not Source.DATASET and sampling.max_completion_length > 1
        if is_sampled and state.num_tokens <= num_rows:
            yield (
                EMPTY,
                f"{num_rows} responses of the {state.source} have {state.num_tokens} tokens, "
                "their ends included: they are empty",
            )


def diverged(state: StepState, num_skipped: int, batch: Path) -> Diagnostic:
    """GK532 of the step that is one too many; `batch` is where its rows were written to."""
    in_a_row = f": {num_skipped} such steps in a row" if num_skipped > 1 else ""
    return error(
        DIVERGED,
        f"step {state.step} has a loss of {state.loss} "
        f"and a gradient norm of {state.grad_norm}{in_a_row}",
        "run.max_skipped_steps" if num_skipped > 1 else "optimizer.lr",
        label="training diverged, so it stops before it saves",
        notes=(f"the rows of the step are in {batch}",),
        help=(
            "lower `optimizer.lr`, raise `optimizer.warmup_fraction`, or set `optimizer.clip_grad`",
            f"or leave such steps out: `run.max_skipped_steps = {2 * num_skipped}`",
        ),
    )


def write_batch(directory: Path, state: StepState, mesh: Mesh, chat: Chat) -> None:
    """The rows of a step for a person to look at: data_N.jsonl of each place on the data axis."""
    if mesh.tensor_rank or mesh.context_rank or mesh.pipeline_rank:
        return
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"data_{mesh.data_rank}.jsonl"
    rows = (
        {
            "step": state.step,
            "source": state.source,
            "row": example.row,
            "prompt": chat.decode(example.prompt),
            "response": chat.decode(response),
            "prompt_ids": list(example.prompt),
            "response_ids": list(response),
        }
        for example, response in zip(state.examples, state.responses, strict=True)
    )
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
