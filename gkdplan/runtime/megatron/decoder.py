"""A model's layers with an attention of one's own, one forward at a time through all stages.

Legend: T tokens of all rows, B rows, H hidden size, V ids of the padded vocabulary, D head size, R
rotated coordinates of a head.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.distributed as dist
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.tensor_parallel.mappings import gather_from_tensor_model_parallel_region
from megatron.core.transformer.transformer_layer import TransformerLayer
from torch import Tensor

from gkdplan.runtime.loss import bound_
from gkdplan.runtime.megatron.forward import logit_softcap, output_head, with_images
from gkdplan.runtime.megatron.products import multiply
from gkdplan.runtime.megatron.rotary import Rotation
from gkdplan.runtime.megatron.said import Said
from gkdplan.runtime.vision.pixels import Pixels

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""From a layer's place among this rank's, and query, key and value, to the attention's output."""
Turn = tuple[Tensor, Tensor]
"""Cosines and sines."""


class Decoder:
    """This rank's chunks of a model, for rows of `num_positions` tokens at most.

    Every rank of a model takes part in every forward: stages hand hidden states on, point to point.
    """

    def __init__(self, chunks: Sequence[GPTModel], num_positions: int) -> None:
        self.layers = [layer for chunk in chunks for layer in chunk.decoder.layers]
        self.config = chunks[0].config
        self.groups = chunks[0].pg_collection
        self.device = next(chunks[0].parameters()).device
        self._chunks = chunks
        self._rotary = _rotary_tables(chunks, num_positions)

    @property
    def is_last_stage(self) -> bool:
        """Whether this rank has the output head."""
        return self._chunks[-1].post_process

    def hidden(
        self, tokens_T: Tensor, positions: Tensor, attend: Attend, pixels: Pixels | None = None
    ) -> Tensor:
        """What this rank's last chunk makes of the tokens, [T, H]: on the last stage the states
        before the final norm. `positions` are [T], or [3, T] of a model whose tokens stand in time,
        row and column. `pixels` are of images whose features stand among the tokens.

        Megatron's modules see one sequence of T positions, [T, 1, H]: all but attention treat
        positions alike, so that it may hold several rows.
        """
        turns = {
            rotation: (self._at(cos, positions), self._at(sin, positions))
            for rotation, (cos, sin) in self._rotary.items()
        }
        place, said = 0, None
        for chunk in self._chunks:
            if chunk.pre_process:
                hidden, said = _embedded(chunk, tokens_T[None], pixels)
            else:
                hidden = self._receive(len(tokens_T))
            for layer in chunk.decoder.layers:
                turn = turns.get(layer.self_attention.rotation)
                hidden = _run_layer(layer, place, hidden, turn, attend)
                if said is not None:
                    hidden = said.added(chunk, place, hidden)
                place += 1
            if not chunk.post_process:
                self._send(hidden)
        return hidden[:, 0]

    def _at(self, table_PR: Tensor, positions: Tensor) -> Tensor:
        """[T, 1, 1, R] of a table's rows of all positions."""
        if positions.dim() == 1:
            return table_PR[positions][:, None, None]
        axes_R = self._chunks[0].rotary_pos_emb.axes_F.repeat(2)
        coordinates_R = torch.arange(len(axes_R), device=self.device)
        return table_PR[positions[axes_R].t(), coordinates_R][:, None, None]

    def logits(self, hidden_BH: Tensor) -> Tensor:
        """Final norm and output head, gathered over the tensor axis: [B, V], bounded where the
        family does so; on the last stage."""
        model = self._chunks[-1]
        normed_BH = model.decoder.final_layernorm(hidden_BH[:, None])[:, 0]
        share_BV = bound_(multiply(normed_BH, output_head(model)), logit_softcap(model))
        return gather_from_tensor_model_parallel_region(share_BV, group=self.groups.tp)

    def agree(self, tokens_B: Tensor) -> Tensor:
        """On every rank of the rows the tokens of the last stage's first rank, as sums on GPUs may
        vary."""
        groups = self.groups
        sources = ((groups.tp, 0), (groups.cp, 0), (groups.pp, groups.pp.size() - 1))
        for group, source in sources:
            if group.size() > 1:
                dist.broadcast(tokens_B, group=group, group_src=source)
        return tokens_B

    def most(self, number: int) -> int:
        """The largest `number` among ranks that hold each other's experts, which all take part in
        every forward of one of them."""
        if self.config.num_moe_experts is None or self.groups.tp_ep.size() == 1:
            return number
        largest = torch.tensor(number, device=self.device)
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=self.groups.tp_ep)
        return int(largest)

    def _send(self, hidden: Tensor) -> None:
        group = self.groups.pp
        dist.send(hidden.contiguous(), group=group, group_dst=(group.rank() + 1) % group.size())

    def _receive(self, num_tokens: int) -> Tensor:
        group, config = self.groups.pp, self.config
        size = (num_tokens, 1, config.hidden_size)
        hidden = torch.empty(size, dtype=config.params_dtype, device=self.device)
        dist.recv(hidden, group=group, group_src=(group.rank() - 1) % group.size())
        return hidden


def _embedded(
    chunk: GPTModel, tokens_1T: Tensor, pixels: Pixels | None
) -> tuple[Tensor, Said | None]:
    if pixels is None:
        return chunk.embedding(tokens_1T, position_ids=None), None
    return with_images(chunk, tokens_1T, tokens_1T.size(1), pixels)


def _run_layer(
    layer: TransformerLayer, place: int, hidden: Tensor, turn: Turn | None, attend: Attend
) -> Tensor:
    """Adds to `hidden` in place: nothing of its input or its attention is left beside its MLP."""
    hidden += _attention_output(layer, place, hidden, turn, attend)
    hidden += layer.mlp(layer.pre_mlp_layernorm(hidden))[0]
    return hidden


def _attention_output(
    layer: TransformerLayer, place: int, hidden: Tensor, turn: Turn | None, attend: Attend
) -> Tensor:
    attention, is_in_pairs = layer.self_attention, layer.config.rotary_interleaved
    query, key, value = attention.query_key_value(
        layer.input_layernorm(hidden), partial(_rotate, turn=turn, is_in_pairs=is_in_pairs)
    )
    return attention.linear_proj(attend(place, query, key, value))[0]


def _rotary_tables(chunks: Sequence[GPTModel], num_positions: int) -> dict[Rotation, Turn]:
    """Of every way in which a layer turns the cosines and sines of each position's angles,
    [num_positions, R] in the model's dtype."""
    angles = chunks[0].rotary_pos_emb.get_emb(num_positions)
    dtype = chunks[0].config.params_dtype
    rotations = {layer.self_attention.rotation for c in chunks for layer in c.decoder.layers}
    tables = {}
    for rotation in rotations:
        own = rotation.angles(angles)
        if own is not None:
            own = own[:, 0, 0]
            cos, sin = (trigonometric * rotation.factor for trigonometric in (own.cos(), own.sin()))
            tables[rotation] = cos.to(dtype), sin.to(dtype)
    return tables


def _rotate(x: Tensor, turn: Turn | None, *, is_in_pairs: bool) -> Tensor:
    """Rotary embedding of [T, 1, heads, D], of whose D coordinates the first R turn: i with
    i + R/2, or in pairs 2i with 2i + 1; none in a layer that does not turn."""
    if turn is None:
        return x
    cos, sin = turn
    rotated, rest = x[..., : cos.size(-1)], x[..., cos.size(-1) :]
    if is_in_pairs:
        turned = torch.stack((-rotated[..., 1::2], rotated[..., ::2]), dim=-1).flatten(-2)
    else:
        first, second = rotated.chunk(2, dim=-1)
        turned = torch.cat((-second, first), dim=-1)
    rotated = turned.mul_(sin).add_(rotated * cos)
    return rotated if rest.size(-1) == 0 else torch.cat((rotated, rest), dim=-1)
