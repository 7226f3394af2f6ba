"""Bytes of a vllm engine on one of its tensor ranks, as vllm 0.32 lays them out.

h hidden, F ffn, q and k the query and kv sizes of a rank, T the engine's tensor degree, w bytes of
an element. Kv heads that are fewer than T are held by several ranks, and so are latents.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from gkdplan.latent import LatentShape
from gkdplan.shape import ModelShape
from gkdplan.vision import QwenVision
from gkdplan.vocab import Dtype

VOCAB_MULTIPLE = 64
"""vllm pads the rows of an embedding to it, whatever the degree
(vllm/model_executor/layers/vocab_parallel_embedding.py, DEFAULT_VOCAB_PADDING_SIZE)."""
POSITIONS_OF_VIDEOS = 4
"""As many times the positions of Qwen2.5-VL are in its table of rotary angles, for long videos
(vllm/model_executor/layers/rotary_embedding/mrope.py); of Qwen3-VL they are in it once, as nothing
that is seen is pruned (vllm/model_executor/models/qwen3_vl.py, mrope_positions_factor)."""
SAMPLER_BYTES = 28
"""A sequence and an id of the vocabulary while a token is drawn: float32 logits, sorted with int64
ids, their softmax and its running sum, masks (vllm/v1/sample/ops/topk_topp_sampler.py)."""


@dataclass(frozen=True, slots=True)
class EngineModel:
    """The share of a model that one tensor rank of the engine holds."""

    shape: ModelShape
    dtype: Dtype
    tensor: int

    @property
    def query_size(self) -> int:
        return self.shape.query_size // self.tensor

    @property
    def kv_size(self) -> int:
        """Of whole heads, one at least (vllm/config/model.py, get_num_kv_heads)."""
        return max(1, self.shape.num_kv_heads // self.tensor) * self.shape.head_dim

    @property
    def vocab_rows(self) -> int:
        return padded_vocab_rows(self.shape) // self.tensor

    @property
    def embedding_elements(self) -> int:
        return self.vocab_rows * self.shape.hidden_size


def padded_vocab_rows(shape: ModelShape) -> int:
    return -(-shape.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE


def weight_bytes(model: EngineModel) -> int:
    """Embedding, layers, final norm, head, and the table of rotary angles of every position
    (vllm/model_executor/layers/rotary_embedding/base.py)."""
    shape = model.shape
    matrices = 1 if shape.tied_embeddings else 2
    layers = sum(number * sum(_layer_elements(kind)) for number, kind in _kinds_of_layers(model))
    turning = shape.head_dim if shape.latent is None else shape.rotated_size
    angles = _positions_of_table(shape) * turning
    elements = matrices * model.embedding_elements + layers + shape.hidden_size
    return (elements + angles) * model.dtype.num_bytes


def _positions_of_table(shape: ModelShape) -> int:
    """Those of the model, or more."""
    factor = POSITIONS_OF_VIDEOS if isinstance(shape.vision, QwenVision) else 1
    return factor * shape.max_position_embeddings


def kv_token_bytes(model: EngineModel) -> int:
    """Keys and values of one token: 2 L max(1, g // T) d w
    (vllm/v1/kv_cache_interface.py, FullAttentionSpec), or L (Lk + dr) w of the latent that they
    come from, and of what turns of the keys (MLAAttentionSpec)."""
    if model.shape.latent is not None:
        latent = model.shape.latent
        kept = latent.kv_rank + latent.rotated_size
        return model.shape.num_layers * kept * model.dtype.num_bytes
    return 2 * model.shape.num_layers * model.kv_size * model.dtype.num_bytes


def forward_bytes(model: EngineModel, num_tokens: int, num_sequences: int) -> int:
    """The most that passes while vllm profiles itself: a forward of `num_tokens` tokens, then the
    drawing of a token of each sequence beside the final hidden states
    (vllm/v1/worker/gpu_model_runner.py, profile_run)."""
    width = model.dtype.num_bytes
    hidden = num_tokens * model.shape.hidden_size * width
    logits = num_sequences * model.shape.vocab_size * (width + SAMPLER_BYTES)
    widest = max(_widest(kind) for _, kind in _kinds_of_layers(model))
    return max(num_tokens * widest * width, hidden + logits)


def reload_bytes(model: EngineModel) -> int:
    """The largest module: new weights are loaded beside the old ones, one module at a time
    (vllm/model_executor/model_loader/reload/layerwise.py)."""
    of_layers = (
        element for _, kind in _kinds_of_layers(model) for element in _layer_elements(kind)
    )
    return max(model.embedding_elements, *of_layers) * model.dtype.num_bytes


def _kinds_of_layers(model: EngineModel) -> Iterator[tuple[int, EngineModel]]:
    """How many layers there are with experts and without, each with the model as they have it."""
    num_dense = model.shape.num_dense_layers
    if num_dense < model.shape.num_layers:
        yield model.shape.num_layers - num_dense, model
    if num_dense:
        yield num_dense, replace(model, shape=model.shape.without_experts)


def _layer_elements(model: EngineModel) -> Iterator[int]:
    """Of each module of a layer, with experts where the model has them."""
    shape, moe = model.shape, model.shape.moe
    hidden, query, kv = shape.hidden_size, model.query_size, model.kv_size
    if shape.latent is not None:
        yield from _latent_elements(model, shape.latent)
    else:
        yield (hidden + (1 if shape.qkv_bias else 0)) * (query + 2 * kv)
        yield query * hidden
    yield shape.num_norms_per_layer * hidden + shape.qk_norm_parameters
    if moe is None:
        yield 2 * hidden * (shape.ffn_hidden_size // model.tensor)
        yield hidden * (shape.ffn_hidden_size // model.tensor)
        return
    yield moe.num_experts * (hidden + moe.routing.has_choice_bias)
    yield moe.num_experts * 3 * hidden * (moe.expert_ffn_hidden_size // model.tensor)
    yield 3 * hidden * (moe.shared_ffn_hidden_size // model.tensor)
    yield hidden if moe.shared_expert_gate else 0


def _latent_elements(model: EngineModel, latent: LatentShape) -> Iterator[int]:
    """Of attention from latents: the maps to them, whole on every rank, and those from them, of
    which that of keys and values is there twice, as it is and as it is multiplied by queries and by
    context (vllm/model_executor/layers/attention/mla_attention.py, W_UK_T and W_UV)."""
    shape, hidden = model.shape, model.shape.hidden_size
    yield hidden * (latent.kv_rank + latent.rotated_size + (latent.query_rank or 0))
    yield model.query_size * (latent.query_rank or hidden)
    yield 2 * latent.kv_rank * (shape.latent_kv_size // model.tensor)
    yield hidden * (shape.context_size // model.tensor)


def _widest(model: EngineModel) -> int:
    """Elements of a token where a layer holds most: the residual and the layer's input beside
    attention's projections and output, or beside the MLP's (an expert's: of every copy of the
    token, with its input or output, whichever is wider: fused_moe's two caches)."""
    shape, moe = model.shape, model.shape.moe
    hidden = shape.hidden_size
    attention = hidden + 2 * model.query_size + 2 * model.kv_size
    if shape.latent is not None:
        attention += (shape.latent_kv_size + shape.context_size) // model.tensor
    if moe is None:
        mlp = 3 * (shape.ffn_hidden_size // model.tensor)
    else:
        width = moe.expert_ffn_hidden_size // model.tensor
        mlp = moe.num_experts_per_token * (max(2 * width, hidden) + width)
    return 2 * hidden + max(attention, mlp)
