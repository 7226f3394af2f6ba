"""Where the tokens of a prompt with images stand: in time, row and column.

Legend: S tokens of a prompt and what follows it.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gkdplan.runtime.vision.images import Shown


def positions_of(
    prompt: Sequence[int], shown: Sequence[Shown], image_token_id: int, num_following: int = 0
) -> Tensor:
    """The positions [3, S], int64, of a prompt and of `num_following` tokens of text after it.

    A token of text stands at one number in all three. The tokens of an image share the time of its
    begin, and count its rows and columns from there; what follows comes after the larger of both
    (Bai et al., arXiv 2502.13923, section 2.1.3).
    """
    runs: list[Tensor] = []
    begin = 0
    for run in _runs(prompt, shown, image_token_id, num_following):
        runs.append(run + begin)
        begin += int(run.max()) + 1
    return torch.cat(runs, dim=1)


def _runs(
    prompt: Sequence[int], shown: Sequence[Shown], image_token_id: int, num_following: int
) -> Iterator[Tensor]:
    """The positions [3, run] of each run of text, and of each image, from its begin."""
    place = 0
    for one in shown:
        first = prompt.index(image_token_id, place)
        yield from _text(first - place)
        yield _image(*one.grid)
        place = first + one.num_tokens
    yield from _text(len(prompt) - place + num_following)


def _text(num_tokens: int) -> Iterator[Tensor]:
    if num_tokens:
        yield torch.arange(num_tokens).expand(3, -1)


def _image(rows: int, columns: int) -> Tensor:
    places = torch.arange(rows * columns)
    return torch.stack((torch.zeros_like(places), places // columns, places % columns))
