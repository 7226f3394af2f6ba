"""The two halves of a model that the loss joins: final hidden states and the output head.

Legend: S tokens of a row, B rows, H hidden size, N chosen tokens, V this rank's share of the padded
vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    scatter_to_sequence_parallel_region,
)
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor
from torch.nn.functional import pad

from gkdplan.runtime.vision.pixels import NO_SIGHT, Pixels, Sight

Deepen = Callable[[Tensor], Tensor]
"""From a layer's hidden states to those with what a tower says to it."""


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
    embedded, deep = with_images(model, tokens_BS, num_tokens, sight.pixels) if sees else (None, ())
    is_last, model.post_process = model.post_process, False
    try:
        with _speaking(model, deep):
            return model(tokens_BS, positions_3BS, None, embedded, padding_mask=padding_BS)
    finally:
        model.post_process = is_last


@contextmanager
def _speaking(model: GPTModel, deep: Sequence[Deepen]) -> Iterator[None]:
    """Let what is `deep` be added after each of the first layers."""
    hooks = [
        layer.register_forward_hook(lambda _, __, output, add=add: (add(output[0]), *output[1:]))
        for layer, add in zip(model.decoder.layers, deep, strict=False)
    ]
    assert len(hooks) == len(deep), "the layers that a tower speaks to are in the first chunk"
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _padding_share(model: GPTModel, padding_BS: Tensor) -> Tensor:
    """As a chunk's layers take it: of this rank's tokens, which Megatron cuts out on the first
    stage alone (megatron/core/models/gpt/gpt_model.py, _preprocess)."""
    if model.pre_process or not model.config.sequence_parallel:
        return padding_BS
    group = model.pg_collection.tp
    return padding_BS.chunk(group.size(), dim=1)[group.rank()]


def with_images(
    model: GPTModel, tokens_BS: Tensor, num_tokens: int, pixels: Pixels | None
) -> tuple[Tensor, Sequence[Deepen]]:
    """The embedding [S, B, H] with the features of images in their places, which count rows of
    `num_tokens`; under sequence parallelism this rank's S / t tokens of it. And what adds those of
    each of the first layers that the tower speaks to."""
    if pixels is None:
        return _scattered(model, model.embedding(tokens_BS, position_ids=None)), ()
    features_FH, *deep = (of_all[pixels.features_F] for of_all in model.vision(pixels))
    embedded_SBH = model.embedding(tokens_BS, position_ids=None)
    places_F = pixels.places_F % num_tokens * len(tokens_BS) + pixels.places_F // num_tokens
    whole_TH = embedded_SBH.flatten(0, 1).index_copy(0, places_F, features_FH)
    adding = [partial(_add_features, model, places_F, said_FH) for said_FH in deep]
    return _scattered(model, whole_TH.view_as(embedded_SBH)), adding


def _add_features(
    model: GPTModel, places_F: Tensor, features_FH: Tensor, hidden_SBH: Tensor
) -> Tensor:
    """In their places among this rank's tokens, whose gradients are joined over the tensor axis;
    what comes is no view, so that a pipeline may free it."""
    num_places, num_rows = hidden_SBH.size(0) * hidden_SBH.size(1), hidden_SBH.size(1)
    if model.config.sequence_parallel:
        features_FH = copy_to_tensor_model_parallel_region(
            features_FH, group=model.pg_collection.tp
        )
        places_F = places_F - model.pg_collection.tp.rank() * num_places
        here = ((places_F >= 0) & (places_F < num_places)).long().nonzero().flatten()
        places_F, features_FH = places_F[here], features_FH[here]
    where = (places_F // num_rows, places_F % num_rows)
    return hidden_SBH.index_put(where, features_FH, accumulate=True)


def _scattered(model: GPTModel, embedded_SBH: Tensor) -> Tensor:
    """This rank's share of the tokens."""
    if not model.config.sequence_parallel:
        return embedded_SBH
    return scatter_to_sequence_parallel_region(embedded_SBH, group=model.pg_collection.tp)
