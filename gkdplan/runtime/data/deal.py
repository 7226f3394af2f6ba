"""A global batch as one model's ranks share it, known as a whole on every rank."""

from collections.abc import Sequence
from dataclasses import dataclass

from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runtime.data.batch import MicroBatch, Row, collate, row_share, width_of
from gkdplan.runtime.vision.images import Eyes


@dataclass(frozen=True, slots=True)
class Deal:
    """Micro-batch k of the global batch `batches` is of data rank k % data, and split over the
    context axis.

    A micro-batch is as wide as its longest row; where stages hand them on, as the longest row of
    the data rank's micro-batches.
    """

    degrees: AxisDegrees
    batches: Sequence[Sequence[Row]]

    def micro_batches(self, rank: int, pad_id: int, eyes: Eyes | None = None) -> list[MicroBatch]:
        """The rank's share, in order; `eyes` are the model's, as `collate` takes them."""
        place = self.degrees.place_of(rank)
        share = row_share(self.degrees, place.context)
        mine = range(place.data, len(self.batches), self.degrees.data)
        return [collate(self.batches[k], pad_id, share, self._width(k), eyes) for k in mine]

    def response_tokens(self, k: int) -> list[list[int]]:
        """For each rank of the context axis the response tokens of micro-batch k in its share, by
        their numbers, counted row after row: the N of its `MicroBatch`."""
        places = [
            place
            for row in self.batches[k]
            for place in range(len(row.prompt) - 1, len(row.prompt) - 1 + len(row.response))
        ]
        shares = [row_share(self.degrees, rank) for rank in range(self.degrees.context)]
        all_here = [{*share.places(self._width(k))} for share in shares]
        return [[n for n, place in enumerate(places) if place in here] for here in all_here]

    def _width(self, k: int) -> int:
        if self.degrees.pipeline == 1:
            return width_of(self.batches[k])
        data = self.degrees.data
        return max(width_of(batch) for batch in self.batches[k % data :: data])
