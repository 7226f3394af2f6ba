"""The keys and values of a batch that is being generated, and attention over them.

Megatron's own static context keeps keys before their rotation and turns the whole cache again for
every token (megatron/core/transformer/attention.py, `_adjust_key_value_for_inference`), and
Transformer Engine's attention ignores a padding mask under a causal layer. Here keys are kept
rotated, and torch's fused attention reads them in place on every device.

Legend: T tokens one after the other, S those of one prompt, B rows, K columns of the cache, N query
heads and G kv heads of this rank, R query heads a kv head, D head size, V that
of values.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from gkdplan.runtime.megatron.attend import attend
from gkdplan.runtime.megatron.decoder import Decoder
from gkdplan.runtime.megatron.scores import Scores


class KeyValueCache:
    """Two tensors a layer of this rank in the model's dtype, [B, G, K, D] and [B, G, K, V]:
    layers * B * G * K * (D + V) elements. Of keys and values from latents it is they that are kept.

    K is the longest prompt plus `max_new_tokens`. Prompts end in the same column, so that all rows
    grow together; the columns before a shorter prompt stay zero and hidden. Layers with a window
    have as many columns as others, of which their tokens read the last. `next_positions` are those
    of the tokens after the prompts: the prompts' lengths where they are not given.
    """

    def __init__(
        self,
        decoder: Decoder,
        prompt_lengths: Sequence[int],
        max_new_tokens: int,
        next_positions: Sequence[int] | None = None,
    ) -> None:
        attention, device = decoder.layers[0].self_attention, decoder.device
        self.prompt_lengths = tuple(prompt_lengths)
        self._scores = [layer.self_attention.scores for layer in decoder.layers]
        self.num_columns = max(prompt_lengths)
        self.starts_B = self.num_columns - torch.tensor(prompt_lengths, device=device)
        next_positions = prompt_lengths if next_positions is None else next_positions
        self.zeros_B = self.num_columns - torch.tensor(next_positions, device=device)
        capacity = self.num_columns + max_new_tokens
        visible_BK = torch.arange(capacity, device=device) >= self.starts_B[:, None]
        self.visible_B11K = None if visible_BK.all() else visible_BK[:, None, None]
        size = (len(prompt_lengths), attention.num_query_groups_per_partition, capacity)
        dtype = decoder.config.params_dtype
        self.keys, self.values = (
            [torch.zeros(*size, head_dim, dtype=dtype, device=device) for _ in decoder.layers]
            for head_dim in (attention.key_hidden_size, attention.val_hidden_size)
        )

    def attend_prompts(
        self, rows: Sequence[int], layer: int, query: Tensor, key: Tensor, value: Tensor
    ) -> Tensor:
        """Causal attention within each whole prompt of `rows`, whose keys and values are kept.

        The prompts lie one after the other: query [T, 1, N, D], key [T, 1, G, D] and value
        [T, 1, G, V]; returns [T, 1, N * V].
        """
        lengths = [self.prompt_lengths[row] for row in rows]
        contexts = []
        parts = (x.split(lengths) for x in (query, key, value))
        for row, length, q_S1ND, k_S1GD, v_S1GD in zip(rows, lengths, *parts, strict=True):
            columns = slice(self.num_columns - length, self.num_columns)
            self.keys[layer][row, :, columns] = k_S1GD[:, 0].transpose(0, 1)
            self.values[layer][row, :, columns] = v_S1GD[:, 0].transpose(0, 1)
            contexts.append(attend(q_S1ND, k_S1GD, v_S1GD, self._scores[layer]))
        return torch.cat(contexts)

    def attend_tokens(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention of each row's token in the last column to all that its row holds.

        query [B, 1, N, D], key [B, 1, G, D], value [B, 1, G, V]; returns [B, 1, N * V]. The query
        heads that share a kv head take the place of query positions, so that no key is repeated.
        """
        num_rows, _, num_kv_heads, head_dim = key.shape
        keys, values = self.keys[layer], self.values[layer]
        keys[:, :, self.num_columns - 1] = key[:, 0]
        values[:, :, self.num_columns - 1] = value[:, 0]
        scores, visible = self._scores[layer], self.visible_B11K
        seen = slice(scores.first_key(self.num_columns - 1), self.num_columns)
        context_BGRD = _attend_cached(
            query.view(num_rows, num_kv_heads, -1, head_dim),
            keys[:, :, seen],
            values[:, :, seen],
            None if visible is None else visible[..., seen],
            scores,
        )
        return context_BGRD.reshape(num_rows, 1, -1)

    def add_column(self) -> Tensor:
        """Make room for one token a row; returns its position in its own row, int64 [B]."""
        self.num_columns += 1
        return self.num_columns - 1 - self.zeros_B

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Forget all rows but these, one layer at a time."""
        for tensors in (self.keys, self.values):
            for layer, tensor in enumerate(tensors):
                tensors[layer] = tensor[rows]
        self.starts_B, self.zeros_B = self.starts_B[rows], self.zeros_B[rows]
        if self.visible_B11K is not None:
            self.visible_B11K = self.visible_B11K[rows]


def _attend_cached(
    query_BGRD: Tensor,
    keys_BGKD: Tensor,
    values_BGKD: Tensor,
    visible_B11K: Tensor | None,
    scores: Scores,
) -> Tensor:
    """[B, G, R, D]; bounded scores of one token a row are few, and computed in float32."""
    if scores.softcap is None:
        return scaled_dot_product_attention(
            query_BGRD, keys_BGKD, values_BGKD, attn_mask=visible_B11K, scale=scores.scale
        )
    products = torch.matmul(query_BGRD, keys_BGKD.transpose(-1, -2)).float()
    logits = products.mul_(scores.scale_of(query_BGRD.size(-1)) / scores.softcap).tanh_()
    logits.mul_(scores.softcap)
    if visible_B11K is not None:
        logits.masked_fill_(~visible_B11K, -torch.inf)
    return torch.matmul(logits.softmax(dim=-1).to(values_BGKD.dtype), values_BGKD)
