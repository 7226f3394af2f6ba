"""What every engine that samples outside of Megatron's modules can do."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from gkdplan.runplan.sampling import Sampling
from gkdplan.runtime.vision.pixels import PromptImage

NamedTensor = tuple[str, Tensor]
"""A whole tensor under its Hugging Face name."""


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt as tokens, the seed of its response, the value that names its teacher, where a
    teacher samples and there are several, and the images whose tokens the prompt holds, in order.
    """

    prompt: Sequence[int]
    seed: int
    teacher: str | None = None
    images: Sequence[PromptImage] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """A response as tokens, its stop token included where one was drawn, and the version of the
    weights that drew all of it: the number of updates that they have had."""

    tokens: tuple[int, ...]
    weights_version: int


class SampleEngine(Protocol):
    """What samples, seen from one rank.

    Of the rows of a batch this rank asks for those of `share`; every row is in the share of some
    rank, and of several only where they get the same answer.
    """

    def share(self, num_rows: int) -> range:
        """Places, in a batch that all ranks know, of the rows that this rank asks for."""

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """One completion a request, in order.

        Raises UserError where the engine answers with what it must not: ids outside the vocabulary,
        numbers that are not finite, or weights of another version than the last `refit`'s.
        """


class RolloutEngine(SampleEngine, Protocol):
    """An engine that holds the student's weights and samples from them."""

    def refit(self, tensors: Iterator[NamedTensor], version: int) -> None:
        """Replace all weights by `tensors`, and forget what was cached of the old ones.

        Collective over all ranks: each iterates `tensors` to the end.
        """

    def close(self) -> None:
        """Give back processes, ports and memory."""
