"""The two halves of a model that the loss joins: final hidden states and the output head.

Legend: S tokens of a row, B rows, H hidden size, N chosen tokens, V this rank's share of the padded
vocabulary.
"""

import torch
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    scatter_to_sequence_parallel_region,
)
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor
from torch.nn.functional import pad

from gkdplan.runtime.megatron.said import Said
from gkdplan.runtime.vision.pixels import NO_SIGHT, Pixels, Sight


def response_hidden(
    model: GPTModel,
    tokens_BS: Tensor,
    predict_N: Tensor,
    padding_BS: Tensor | None = None,
    *,
    sight: Sight = NO_SIGHT,
) -> Tensor:
    """The final hidden states [N, H] after the last norm, in the model's dtype.

    They stand at the places `predict_N` of the flattened [B * S] tokens and are whole on every
    tensor rank, which may multiply them with its own vocabulary shard: the gradients that come back
    are partial and are summed over the tensor axis. Attention is causal without a mask, so rows are
    padded on the right, to a `padded_length`, and cut again. `padding_BS`, bool, says to routers
    that balance their load where. `model` is the last chunk; `sight` is that of the rows' images,
    which only the chunk with the embedding looks at.
    """
    num_tokens = tokens_BS.size(1)
    hidden_SBH = _sequence_first(model, tokens_BS, padding_BS, sight)
    return hidden_SBH[predict_N % num_tokens, predict_N // num_tokens]


def stage_output(
    model: GPTModel,
    tokens_BS: Tensor,
    padding_BS: Tensor | None = None,
    *,
    sight: Sight = NO_SIGHT,
) -> Tensor:
    """What a chunk that is not the last hands to the next, [S, B, H], or its S / t tokens."""
    return _decode(model, tokens_BS, padding_BS, sight)


def padded_length(config: TransformerConfig, num_tokens: int) -> int:
    """Tokens of a row as the model takes it: under sequence parallelism a multiple of the tensor
    degree."""
    divisor = config.tensor_model_parallel_size if config.sequence_parallel else 1
    return num_tokens + -num_tokens % divisor


def output_head(model: GPTModel) -> Tensor:
    """This rank's rows [V, H] of the output head: the tied embedding, or the output layer's weight.

    It is the parameter itself, so a gradient that reaches it is added to Megatron's `main_grad`.
    """
    if model.share_embeddings_and_output_weights:
        return model.shared_embedding_or_output_weight()
    return model.output_layer.weight


def logit_softcap(model: GPTModel) -> float | None:
    """c, where the model bounds its logits to c tanh(logit / c); `model.build_chunks` sets it."""
    softcap: float | None = model.logit_softcap
    return softcap


def _sequence_first(
    model: GPTModel, tokens_BS: Tensor, padding_BS: Tensor | None, sight: Sight
) -> Tensor:
    """The hidden states as Megatron lays them out, [S, B, H]."""
    share_SBH = _decode(model, tokens_BS, padding_BS, sight)
    if not model.config.sequence_parallel:
        return copy_to_tensor_model_parallel_region(share_SBH, group=model.pg_collection.tp)
    return gather_from_sequence_parallel_region(
        share_SBH, tensor_parallel_output_grad=True, group=model.pg_collection.tp
    )[: tokens_BS.size(1)]


def _padded(model: GPTModel, values: Tensor, *, value: int) -> Tensor:
    """[..., S] with more of `value` at its end."""
    num_tokens = values.size(-1)
    padding = padded_length(model.config, num_tokens) - num_tokens
    return pad(values, (0, padding), value=value) if padding else values


def _decode(model: GPTModel, tokens_BS: Tensor, padding_BS: Tensor | None, sight: Sight) -> Tensor:
    """The model's forward without the head; this rank's S / t tokens under sequence parallelism."""
    num_tokens = tokens_BS.size(1)
    tokens_BS = _padded(model, tokens_BS, value=0)
    if padding_BS is not None:
        padding_BS = _padding_share(model, _padded(model, padding_BS, value=1))
    positions_3BS = sight.positions_3BS
    if positions_3BS is not None:
        positions_3BS = _padded(model, positions_3BS, value=0)
    sees = model.pre_process and hasattr(model, "vision")
    pixels = sight.pixels
    embedded, said = with_images(model, tokens_BS, num_tokens, pixels) if sees else (None, None)
    told = None if said is None else said.to_layers_of(model)
    is_last, model.post_process = model.post_process, False
    try:
        return model(
            tokens_BS,
            positions_3BS,
            None,
            embedded,
            padding_mask=padding_BS,
            extra_block_kwargs=told,
        )
    finally:
        model.post_process = is_last


def _padding_share(model: GPTModel, padding_BS: Tensor) -> Tensor:
    """As a chunk's layers take it: of this rank's tokens, which Megatron cuts out on the first
    stage alone (megatron/core/models/gpt/gpt_model.py, _preprocess)."""
    if model.pre_process or not model.config.sequence_parallel:
        return padding_BS
    group = model.pg_collection.tp
    return padding_BS.chunk(group.size(), dim=1)[group.rank()]


def with_images(
    model: GPTModel, tokens_BS: Tensor, num_tokens: int, pixels: Pixels | None
) -> tuple[Tensor, Said | None]:
    """The embedding [S, B, H] with the features of images in their places, which count rows of
    `num_tokens`; under sequence parallelism this rank's S / t tokens of it. And what the tower says
    to the first layers, where it does."""
    if pixels is None:
        return _scattered(model, model.embedding(tokens_BS, position_ids=None)), None
    features_FH, *deep = (of_all[pixels.features_F] for of_all in model.vision(pixels))
    embedded_SBH = model.embedding(tokens_BS, position_ids=None)
    places_F = pixels.places_F % num_tokens * len(tokens_BS) + pixels.places_F // num_tokens
    whole_TH = embedded_SBH.flatten(0, 1).index_copy(0, places_F, features_FH)
    said = Said(places_F, torch.stack(deep)) if deep else None
    return _scattered(model, whole_TH.view_as(embedded_SBH)), said


def _scattered(model: GPTModel, embedded_SBH: Tensor) -> Tensor:
    """This rank's share of the tokens."""
    if not model.config.sequence_parallel:
        return embedded_SBH
    return scatter_to_sequence_parallel_region(embedded_SBH, group=model.pg_collection.tp)
