"""What one step of a plan gives on each rank, and how two plans' steps differ."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

_LOSS = "loss"
"""The name of the loss beside gradients under their parameters' names."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The loss of a global batch, and the gradients [as the checkpoint's tensors], float32, that
    one rank has of it."""

    loss: float
    gradients: dict[str, Tensor]

    def save(self, file: Path) -> None:
        save_file({_LOSS: torch.tensor(self.loss, dtype=torch.float64), **self.gradients}, file)

    @classmethod
    def load(cls, file: Path) -> "Outcome":
        """What `save` has written."""
        gradients = load_file(file)
        return cls(gradients.pop(_LOSS).item(), gradients)


@dataclass(frozen=True, slots=True)
class Difference:
    """How far one outcome is from another; `gradient` is that of the parameter that is farthest
    off."""

    loss: float
    gradient: float
    parameter: str


def size_of(outcomes: list[Outcome]) -> Difference:
    """How far outcomes are from nothing: the loss, and the largest element of any gradient."""
    largest = [
        (_finite(float(gradient.abs().max())), name)
        for outcome in outcomes
        for name, gradient in outcome.gradients.items()
    ]
    return Difference(_largest(outcome.loss for outcome in outcomes), *max(largest))


def difference(outcomes: list[Outcome], reference: list[Outcome]) -> Difference:
    """Relative to the reference, every gradient and on every rank that has it; a parameter that no
    rank has is infinitely far off."""
    expected = {name: g for outcome in reference for name, g in outcome.gradients.items()}
    errors: dict[str, list[float]] = {name: [] for name in expected}
    for outcome in outcomes:
        for name, gradient in outcome.gradients.items():
            errors[name].append(_relative(gradient, expected[name]))
    farthest = {name: max(found, default=math.inf) for name, found in errors.items()}
    worst = max(farthest, key=farthest.__getitem__)
    loss = _largest(outcome.loss / reference[0].loss - 1 for outcome in outcomes)
    return Difference(loss, farthest[worst], worst)


def _relative(found: Tensor, expected: Tensor) -> float:
    """A gradient that is 0 must be 0."""
    if not expected.any():
        return math.inf if found.any() else 0.0
    return _finite(float((found.double() - expected).norm() / expected.double().norm()))


def _largest(errors: Iterable[float]) -> float:
    return max(_finite(abs(error)) for error in errors)


def _finite(error: float) -> float:
    """What is no number is infinitely far off: `max` would pass it over."""
    return math.inf if math.isnan(error) else error
