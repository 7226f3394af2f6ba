"""Activation, cache, payload and loss bytes, against published and hand-derived numbers."""

from dataclasses import replace

import pytest
from planner_facts import SMOLLM2

from gkdplan.planner.memory.activations import layer_bytes
from gkdplan.planner.memory.batch import Batch, gather_bytes
from gkdplan.planner.memory.fused import Fused
from gkdplan.planner.memory.generation import cache_bytes
from gkdplan.planner.memory.loss import Loss
from gkdplan.planner.memory.model import RankModel
from gkdplan.planner.memory.payload import payload_bytes
from gkdplan.planner.memory.stage import whole_model
from gkdplan.runplan.model import Objective
from gkdplan.vocab import Dtype, Payload

LLAMA_8B = replace(
    SMOLLM2,
    hidden_size=4096,
    num_layers=32,
    num_attention_heads=32,
    num_kv_heads=8,
    head_dim=128,
    ffn_hidden_size=14336,
    vocab_size=128256,
    tied_embeddings=False,
)
CPU = Fused(norm=False, rope=False, swiglu=False)
CUDA = Fused(norm=True, rope=False, swiglu=True)


def rank_model(shape=SMOLLM2, dtype=Dtype.FP32, tensor=1, sequence=False, fused=CPU):
    return RankModel(shape, dtype, 49152, tensor, sequence, fused, whole_model(shape.num_layers))


def test_a_layer_of_llama_3_8b_keeps_what_a_trace_of_megatron_kept():
    # 75,844 bytes a token: published trace, tensor 2 with sequence parallelism, 8,192 tokens.
    model = rank_model(LLAMA_8B, Dtype.BF16, tensor=2, sequence=True, fused=CUDA)
    assert layer_bytes(model, Batch(1, 8192)) == 75_844 * 8192


def test_an_unfused_layer_keeps_float32_norms_and_five_ffn_widths():
    # h 576, q 576, k 192, F 1536, 9 heads, d 64, fp32. A norm: input, normalised input, output and
    # a reciprocal deviation, 12 x 576 + 4 = 6,916. Attention: fused qkv 960, rotated q 576 and k
    # 192, context 576, 4 bytes each, and 4 bytes a head: 9,252. MLP: 5 x 1536 x 4 = 30,720.
    # Angles: 4 tables of 64 floats a position, shared by the rows.
    per_token = 2 * 6_916 + 9_252 + 30_720
    batch = Batch(rows=3, tokens=100)
    assert layer_bytes(rank_model(), batch) == 300 * per_token + 100 * 4 * 64 * 4


def test_qk_norms_keep_copies_of_what_they_normalise():
    # fp32: queries copied out of the fused projection (576), normalised q (576) and k (192), and
    # a deviation for each of 9 + 3 heads.
    plain, normed = rank_model(), rank_model(replace(SMOLLM2, qk_norm=True))
    batch = Batch(1, 10)
    added = layer_bytes(normed, batch) - layer_bytes(plain, batch)
    assert added == 10 * 4 * (576 + 576 + 192 + 12)


def test_sequence_parallelism_divides_the_norms_and_adds_a_gather_buffer():
    batch = Batch(1, 99)
    whole, shared = rank_model(tensor=3), rank_model(tensor=3, sequence=True)
    assert layer_bytes(whole, batch) - layer_bytes(shared, batch) == 2 * 66 * 6_916
    assert (gather_bytes(whole, batch), gather_bytes(shared, batch)) == (0, 99 * 576 * 4)


def test_ranks_that_share_a_kv_head_hold_the_whole_projection():
    # 3 kv heads on 9 ranks: each computes with one of them, from the gathered projection.
    model = rank_model(tensor=9)
    assert (model.num_kv_heads, model.kv_size, model.qkv_size) == (1, 64, 960)


@pytest.mark.parametrize(("tensor", "kv_size"), [(1, 192), (3, 64)])
def test_the_cache_holds_keys_and_values_of_every_layer(tensor, kv_size):
    expected = 2 * 30 * 8 * 120 * kv_size * 4
    assert cache_bytes(rank_model(tensor=tensor), rows=8, tokens=120) == expected


@pytest.mark.parametrize(
    ("payload", "bytes_of_token"),
    [
        (Payload.HIDDEN, 576 * 2),
        (Payload.LOGITS, 16384 * 2),
        # 64 int32 ids, 64 float32 log-probabilities and that of the tail
        (Payload.TOP_K, 64 * 4 + 64 * 4 + 4),
    ],
)
def test_the_payload_is_hidden_states_a_share_of_the_logits_or_the_likeliest_ids(
    payload, bytes_of_token
):
    teacher = rank_model(dtype=Dtype.BF16, tensor=3)
    objective = Objective(0.5, 0.0, 0.0, 1.0, payload, 256, top_k=64)
    assert payload_bytes(teacher, objective, num_tokens=7) == 7 * bytes_of_token


def loss_of(model: RankModel, backend: str = "gloo", teacher: RankModel | None = None) -> Loss:
    return Loss(model, teacher or model, Payload.HIDDEN, backend, 256, 1000, 49_000)


def test_a_chunk_of_the_loss_holds_both_sides_logits_over_the_true_vocabulary():
    # 256 tokens x 49,000 ids x 4 bytes, twice; a block of 8 rows in 4 buffers is more than the
    # chunk's hidden states or their gradient.
    assert loss_of(rank_model()).tile_bytes() == 2 * 256 * 49_000 * 4 + 4 * 8 * 49_000 * 4
    assert loss_of(rank_model()).gradient_bytes() == 1000 * 576 * 4 + 49152 * 576 * 4


def test_a_cpu_widens_bf16_states_and_parts_of_the_head_of_the_wider_model():
    # hidden states of the chunk and 4,096 rows of the head, in fp32
    narrow = rank_model(dtype=Dtype.BF16)
    wide = rank_model(replace(SMOLLM2, hidden_size=2048), dtype=Dtype.BF16)
    passing = (256 + 4096) * 2048 * 4
    assert loss_of(narrow, teacher=wide).tile_bytes() == 2 * 256 * 49_000 * 4 + passing
    # CUDA rounds the gradient of the logits instead; a block of 64 rows is more than that
    block = 4 * 64 * 49_000 * 4
    assert loss_of(narrow, "nccl", wide).tile_bytes() == 2 * 256 * 49_000 * 4 + block


def test_a_bf16_head_larger_than_the_chunks_has_its_rounded_gradient_at_the_peak():
    model = rank_model(replace(SMOLLM2, hidden_size=16384), dtype=Dtype.BF16)
    assert loss_of(model, "nccl").tile_bytes() == 49152 * 16384 * 2


def test_only_a_tied_head_waits_with_its_gradient_for_the_embedding():
    untied = rank_model(replace(SMOLLM2, tied_embeddings=False))
    for model, kept in ((rank_model(), 49152 * 576 * 4), (untied, 0)):
        assert loss_of(model).kept_bytes() == kept
