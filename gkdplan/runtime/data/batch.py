"""A micro-batch as tensors. Legend: B rows, S padded length, N response tokens of all rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows of prompt and response, padded on the right.

    `tokens_BS` int64. `predict_N` int64: the flattened positions b * S + s whose next token is a
    response token, row after row, rising. `labels_N` int64: that next token. N may be 0.
    """

    tokens_BS: Tensor
    predict_N: Tensor
    labels_N: Tensor

    @property
    def num_response_tokens(self) -> int:
        return len(self.labels_N)

    def to(self, device: torch.device | str) -> "MicroBatch":
        """The same micro-batch on `device`."""
        return MicroBatch(
            self.tokens_BS.to(device), self.predict_N.to(device), self.labels_N.to(device)
        )


def collate(rows: Sequence[tuple[Sequence[int], Sequence[int]]], pad_id: int) -> MicroBatch:
    """One micro-batch of (prompt, response) pairs; prompts hold at least one token."""
    assert all(prompt for prompt, _ in rows), "a first response token needs a predecessor"
    width = max(len(prompt) + len(response) for prompt, response in rows)
    padded = [
        [*prompt, *response, *[pad_id] * (width - len(prompt) - len(response))]
        for prompt, response in rows
    ]
    predict = [
        b * width + len(prompt) - 1 + i
        for b, (prompt, response) in enumerate(rows)
        for i in range(len(response))
    ]
    labels = [token for _, response in rows for token in response]
    return MicroBatch(*(torch.tensor(x, dtype=torch.int64) for x in (padded, predict, labels)))
