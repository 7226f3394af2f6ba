"""The vocabulary over a tensor group: which ids a rank holds, and what the ranks exchange."""

import torch.distributed as dist
from torch import Tensor


class VocabularyShard:
    """Rank r of t holds the global ids [r V/t, (r + 1) V/t) of one padded vocabulary of V ids.

    `num_entries` of them, the first, belong to the true vocabulary; padding follows.
    Raises ValueError where the true vocabulary is larger than the padded one.
    """

    def __init__(
        self, num_padded_entries: int, vocab_size: int | None, group: dist.ProcessGroup | None
    ) -> None:
        self.size = 1 if group is None else dist.get_world_size(group)
        self.first_id = 0 if self.size == 1 else dist.get_rank(group) * num_padded_entries
        padded_vocab_size = self.size * num_padded_entries
        self.vocab_size = padded_vocab_size if vocab_size is None else vocab_size
        if not 0 < self.vocab_size <= padded_vocab_size:
            raise ValueError(
                f"true vocabulary of {vocab_size} ids in a padded one of {padded_vocab_size}"
            )
        self.num_entries = min(max(self.vocab_size - self.first_id, 0), num_padded_entries)
        self._group = group

    def places_of(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """(places, here), both of the shape of the global `ids`: where this rank holds them, int64,
        and whether it does; elsewhere the place is the nearest that it has."""
        places = ids.long() - self.first_id
        here = (places >= 0) & (places < self.num_entries)
        return places.clamp_(0, max(self.num_entries - 1, 0)), here

    def gather(self, statistics: Tensor) -> Tensor:
        """[t, *shape]: the statistics of every rank."""
        if self.size == 1:
            return statistics[None]
        gathered = statistics.new_empty((self.size * len(statistics), *statistics.shape[1:]))
        dist.all_gather_into_tensor(gathered, statistics, group=self._group)
        return gathered.view(self.size, *statistics.shape)

    def sum(self, statistics: Tensor) -> Tensor:
        """The elementwise sum over the ranks, in place."""
        if self.size > 1:
            dist.all_reduce(statistics, group=self._group)
        return statistics
