"""A dense decoder written out in float64, with all that an `AttentionShape` can ask for.

Legend: B rows, S tokens, H hidden size, N query heads, G kv heads, D head size, R rotated ones.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import silu

from gkdplan.runtime.megatron.rotary import frequencies
from gkdplan.shape import ModelShape


def reference_logits(
    weights: dict[str, Tensor], shape: ModelShape, tokens_BS: Tensor, longest: int | None = None
) -> Tensor:
    """[B, S, V] of weights under their names in a Llama checkpoint; frequencies that depend on a
    length are those of `longest` positions, left out, of S."""
    longest = longest or tokens_BS.size(1)
    hidden = weights["model.embed_tokens.weight"][tokens_BS]
    for layer in range(shape.num_layers):
        own = {
            name.removeprefix(f"model.layers.{layer}.").removesuffix(".weight"): weight
            for name, weight in weights.items()
            if name.startswith(f"model.layers.{layer}.")
        }
        normed = _norm(hidden, own["input_layernorm"], shape)
        hidden = hidden + _attention(own, shape, layer, normed, longest)
        normed = _norm(hidden, own["post_attention_layernorm"], shape)
        gated = silu(normed @ own["mlp.gate_proj"].t()) * (normed @ own["mlp.up_proj"].t())
        hidden = hidden + gated @ own["mlp.down_proj"].t()
    logits = _norm(hidden, weights["model.norm.weight"], shape) @ weights["lm_head.weight"].t()
    if shape.logit_softcap is None:
        return logits
    return shape.logit_softcap * torch.tanh(logits / shape.logit_softcap)


def _attention(
    own: dict[str, Tensor], shape: ModelShape, layer: int, normed: Tensor, longest: int
) -> Tensor:
    attention = shape.attention
    query, key, value = (
        (normed @ own[f"self_attn.{name}_proj"].t()).unflatten(-1, (-1, shape.head_dim))
        for name in ("q", "k", "v")
    )
    query, key = (_turned(x, shape, layer, longest) for x in (query, key))
    key, value = (
        x.repeat_interleave(shape.num_attention_heads // shape.num_kv_heads, dim=2)
        for x in (key, value)
    )
    scale = 1 / math.sqrt(shape.head_dim) if attention.scale is None else attention.scale
    scores_BNST = torch.einsum("bsnd,btnd->bnst", query, key) * scale
    if attention.softcap is not None:
        scores_BNST = attention.softcap * torch.tanh(scores_BNST / attention.softcap)
    positions = torch.arange(normed.size(1))
    behind = positions[:, None] - positions
    hidden = behind < 0
    if layer in attention.sliding_layers:
        assert attention.window is not None
        hidden |= behind >= attention.window
    probabilities = scores_BNST.masked_fill(hidden, -torch.inf).softmax(dim=-1)
    context = torch.einsum("bnst,btnd->bsnd", probabilities, value).flatten(2)
    return context @ own["self_attn.o_proj"].t()


def _turned(x_BSND: Tensor, shape: ModelShape, layer: int, longest: int) -> Tensor:
    """Each pair of coordinates as a complex number times exp(i position frequency)."""
    attention, num_positions = shape.attention, x_BSND.size(1)
    if layer in attention.unrotated_layers:
        return x_BSND
    theta, scaling = shape.rope_theta, shape.rope_scaling
    if layer in attention.sliding_layers and attention.sliding_rope_theta is not None:
        theta, scaling = attention.sliding_rope_theta, None
    num_rotated = int(shape.head_dim * attention.rotary_fraction)
    angles = torch.outer(
        torch.arange(num_positions).double(),
        frequencies(theta, num_rotated, scaling, longest).double(),
    )
    factor = getattr(scaling, "attention_factor", 1.0)
    turn = torch.polar(torch.full_like(angles, factor), angles)[None, :, None]
    turning, rest = x_BSND[..., :num_rotated], x_BSND[..., num_rotated:]
    if attention.rotary_in_pairs:
        turned = torch.view_as_real(
            torch.view_as_complex(turning.unflatten(-1, (-1, 2)).contiguous()) * turn
        ).flatten(-2)
    else:
        halves = torch.complex(*turning.chunk(2, dim=-1)) * turn
        turned = torch.cat((halves.real, halves.imag), dim=-1)
    return torch.cat((turned, rest), dim=-1)


def _norm(x: Tensor, weight: Tensor, shape: ModelShape) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + shape.norm_eps).rsqrt() * weight
