"""A micro-batch as tensors. Legend: B rows, S padded length, N response tokens of all rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import lcm
from typing import NamedTuple

import torch
from torch import Tensor

from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runtime.vision.images import Eyes, Shown
from gkdplan.runtime.vision.pixels import NO_SIGHT, Pixels, Sight
from gkdplan.runtime.vision.positions import positions_of


class Row(NamedTuple):
    """A prompt and its response, as tokens, and the pictures of the prompt."""

    prompt: Sequence[int]
    response: Sequence[int]
    shown: tuple[Shown, ...] = ()


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows of prompt and response, padded on the right.

    `tokens_BS` int64. `predict_N` int64: the flattened positions b * S + s whose next token is a
    response token, row after row, rising. `labels_N` int64: that next token. N may be 0.
    `lengths` are the tokens of each row that are here; padding follows them. `sight` is that of all
    rows' pictures.
    """

    tokens_BS: Tensor
    predict_N: Tensor
    labels_N: Tensor
    lengths: tuple[int, ...]
    sight: Sight = NO_SIGHT

    @property
    def padding(self) -> Tensor:
        """bool [B, S]: where a row has no token."""
        places = torch.arange(self.tokens_BS.size(1), device=self.tokens_BS.device)
        return places >= torch.tensor(self.lengths, device=places.device)[:, None]

    @property
    def num_response_tokens(self) -> int:
        return len(self.labels_N)

    def to(self, device: torch.device | str) -> "MicroBatch":
        """The same micro-batch on `device`."""
        return replace(
            self,
            tokens_BS=self.tokens_BS.to(device),
            predict_N=self.predict_N.to(device),
            labels_N=self.labels_N.to(device),
            sight=self.sight.to(device),
        )


@dataclass(frozen=True, slots=True)
class RowShare:
    """What rank `rank` of `size` on the context axis takes of every row.

    Rows are padded to a multiple of `multiple` and cut into 2 * size chunks; the rank takes chunk
    `rank` and the one as far from the end, so that under causal attention all ranks work alike
    (megatron/core/utils.py, get_batch_on_this_cp_rank).
    """

    rank: int = 0
    size: int = 1
    multiple: int = 1

    def places(self, width: int) -> list[int]:
        """Of rows that are at most `width` long, the positions that the rank takes, rising."""
        padded = -(-width // self.multiple) * self.multiple
        if self.size == 1:
            return list(range(padded))
        length = padded // (2 * self.size)
        starts = self.rank * length, (2 * self.size - 1 - self.rank) * length
        return [place for start in starts for place in range(start, start + length)]


WHOLE_ROWS = RowShare()


def row_share(degrees: AxisDegrees, context_rank: int) -> RowShare:
    """Of a model with these degrees; sequence parallelism divides each chunk pair once more."""
    if degrees.context == 1:
        return WHOLE_ROWS
    num_shares = degrees.tensor if degrees.sequence else 1
    return RowShare(context_rank, degrees.context, degrees.context * lcm(2, num_shares))


def micro_batches(
    rows: Sequence[Row],
    size: int,
    pad_id: int,
    share: RowShare,
    eyes: Eyes | None = None,
    *,
    one_width: bool,
) -> list[MicroBatch]:
    """Consecutive micro-batches of `size` rows, each as wide as its longest row.

    With `one_width` all are as wide as the longest row of them all: the stages of a pipeline hand
    each other tensors of one shape (megatron/core/pipeline_parallel/schedules.py,
    get_tensor_shapes).
    """
    batches = [rows[start : start + size] for start in range(0, len(rows), size)]
    widest = width_of(rows) if one_width and rows else None
    return [collate(batch, pad_id, share, widest, eyes) for batch in batches]


def width_of(rows: Sequence[Row]) -> int:
    """Tokens of the longest."""
    return max(len(row.prompt) + len(row.response) for row in rows)


def collate(
    rows: Sequence[Row],
    pad_id: int,
    share: RowShare = WHOLE_ROWS,
    width: int | None = None,
    eyes: Eyes | None = None,
) -> MicroBatch:
    """One micro-batch of rows, padded to `width` tokens, or to the longest; prompts hold at least
    one token. `eyes` are the model's, closed where its tower is on another rank."""
    width = width_of(rows) if width is None else width
    assert all(row.prompt for row in rows), "a first response token needs a predecessor"
    here = {place: index for index, place in enumerate(share.places(width))}
    tokens: list[list[int]] = []
    predict: list[int] = []
    labels: list[int] = []
    lengths: list[int] = []
    for b, row in enumerate(rows):
        ids = [*row.prompt, *row.response]
        tokens.append([ids[place] if place < len(ids) else pad_id for place in here])
        lengths.append(sum(place < len(ids) for place in here))
        for place, label in enumerate(row.response, start=len(row.prompt) - 1):
            if place in here:
                predict.append(b * len(here) + here[place])
                labels.append(label)
    sight = NO_SIGHT if eyes is None else _sight(rows, here, lengths, eyes)
    return MicroBatch(_ids(tokens), _ids(predict), _ids(labels), tuple(lengths), sight)


def _sight(
    rows: Sequence[Row], here: Mapping[int, int], lengths: Sequence[int], eyes: Eyes
) -> Sight:
    """Of the places `here` of a row that the rank has."""
    pixels = _pixels(rows, here, eyes) if eyes.are_open else None
    has_one_axis = eyes.shape.num_position_axes == 1
    return Sight(pixels, None if has_one_axis else _positions(rows, here, lengths, eyes))


def _positions(
    rows: Sequence[Row], here: Mapping[int, int], lengths: Sequence[int], eyes: Eyes
) -> Tensor:
    places_S, image_token = _ids([*here]), eyes.shape.image_token_id
    positions_3BS = torch.zeros(3, len(rows), len(here), dtype=torch.int64)
    for b, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        of_row = positions_of(row.prompt, row.shown, image_token, len(row.response))
        positions_3BS[:, b, :length] = of_row[:, places_S[:length]]
    return positions_3BS


def _pixels(rows: Sequence[Row], here: Mapping[int, int], eyes: Eyes) -> Pixels | None:
    """Of the rows' pictures, whose features stand where the image token does."""
    shown = [one for row in rows for one in row.shown]
    if not shown:
        return None
    places, features, number = [], [], 0
    for b, row in enumerate(rows):
        for place, token in enumerate(row.prompt):
            if token != eyes.shape.image_token_id:
                continue
            if place in here:
                places.append(b * len(here) + here[place])
                features.append(number)
            number += 1
    values, grids_I3 = eyes.pixels(shown)
    return Pixels(values, _ids(places), _ids(features), grids_I3)


def _ids(numbers: Sequence[int] | Sequence[Sequence[int]]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int64)
