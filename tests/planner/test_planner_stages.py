"""A ledger of every class of ranks: stages, chunks, recompute and nodes, by hand."""

from dataclasses import replace

import pytest
from planner_facts import SMOLLM2, facts, plan

from gkdplan.experts import MoeShape
from gkdplan.planner.memory.activations import angle_bytes, layer_bytes
from gkdplan.planner.memory.batch import Batch, gather_bytes
from gkdplan.planner.memory.experts import ExpertShare
from gkdplan.planner.memory.fused import TORCH_ON_CPU, Fused
from gkdplan.planner.memory.held import Held
from gkdplan.planner.memory.in_flight import (
    held_in_training,
    num_chunks_in_flight,
    num_held_in_forward,
)
from gkdplan.planner.memory.model import RankModel
from gkdplan.planner.memory.optimizer import state_of_rank
from gkdplan.planner.memory.parameters import num_elements
from gkdplan.planner.memory.places import most_by_chunk, places
from gkdplan.planner.memory.recompute import chunk_bytes, kept_layer_bytes
from gkdplan.planner.memory.stage import Stage
from gkdplan.planner.pricing import price
from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runplan.models import Recompute
from gkdplan.vocab import Dtype, Phase

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
FUSED = Fused(norm=True, rope=False, swiglu=True, norm_in_projection=True)
MATRIX = 49152 * 576


def stage_of_smol(index: int, num_stages: int, *chunk_layers: int, **changes) -> RankModel:
    stage = Stage(index, num_stages, chunk_layers)
    return RankModel(SMOLLM2, Dtype.FP32, 49152, 1, False, TORCH_ON_CPU, stage, **changes)


def test_stage_0_of_llama_3_8b_holds_what_a_trace_of_megatron_held():
    # Published: 23,043.5 MiB static, tensor 2, pipeline 2, two data ranks, 8,192 tokens. 16 layers
    # of 218,103,808 / 2 + 8,192 and half the embedding are 2,007,629,824 parameters of 6 + 12 / 2
    # bytes; the gathered input is 64 MiB and the rotary cache 4 MiB.
    degrees = AxisDegrees(tensor=2, sequence=True, data=2, pipeline=2)
    model = RankModel(LLAMA_8B, Dtype.BF16, 128256, 2, True, FUSED, Stage(0, 2, (16,)))
    batch = Batch(1, 8192)
    state = state_of_rank(model, degrees, distributed=True)
    static = state.parameter_bytes + state.gradient_bytes + state.optimizer_bytes
    static += gather_bytes(model, batch) + angle_bytes(model, batch)
    assert round(static / 2**20, 1) == 23_043.5


def test_tied_ends_on_two_stages_are_two_copies():
    first, last = stage_of_smol(0, 2, 15), stage_of_smol(1, 2, 15)
    sizes = [sum(map(num_elements, model.chunks)) for model in (first, last)]
    assert sum(sizes) == SMOLLM2.num_parameters + MATRIX
    assert sizes[1] - sizes[0] == 576  # the final norm
    assert [p.name for p in last.chunks[0] if p.is_shared] == ["output_layer.weight"]


def test_a_shared_embedding_is_cut_over_the_data_axis_by_itself():
    # 15 layers of 3,540,096 elements and the matrix, both multiples of 64: over 5 ranks either ends
    # at a multiple of lcm(5, 128) = 640: 53,101,440 is one, 28,311,552 is rounded up by 128.
    degrees = AxisDegrees(tensor=1, sequence=False, data=5, pipeline=2)
    state = state_of_rank(stage_of_smol(0, 2, 15), degrees, distributed=True)
    assert state.gradient_bytes == 4 * (53_101_440 + 28_311_552 + 128)
    assert state.bucket_bytes == 4 * 53_101_440


def test_the_ranks_of_the_context_axis_share_the_optimizer_too():
    model = stage_of_smol(0, 1, 30)
    data, context = (
        state_of_rank(model, AxisDegrees(1, False, **axes), distributed=True)
        for axes in ({"data": 4}, {"data": 2, "context": 2})
    )
    assert data == context


def test_the_model_s_ends_are_in_the_first_and_the_last_chunk():
    first, last = stage_of_smol(0, 2, 5, 5, 5), stage_of_smol(1, 2, 5, 5, 5)
    layers = 5 * 3_540_096
    assert [num_elements(chunk) for chunk in first.chunks] == [layers + MATRIX, layers, layers]
    assert [num_elements(chunk) for chunk in last.chunks] == [layers, layers, layers + 576 + MATRIX]


@pytest.mark.parametrize(
    ("num_stages", "num_chunks", "num_micro_batches", "expected"),
    [
        (1, 1, 8, [1]),
        (4, 1, 8, [4, 3, 2, 1]),
        (4, 1, 2, [2, 2, 2, 1]),
        # 2 (p - i - 1) + (v - 1) p + 1, at most M v
        (2, 2, 8, [5, 3]),
        (3, 5, 6, [17, 15, 13]),
        (2, 2, 2, [4, 3]),
    ],
)
def test_what_is_in_flight_follows_megatrons_schedules(
    num_stages, num_chunks, num_micro_batches, expected
):
    stages = [Stage(i, num_stages, (1,) * num_chunks) for i in range(num_stages)]
    assert [num_chunks_in_flight(stage, num_micro_batches) for stage in stages] == expected


def held(index: int, num_stages: int, num_chunks: int, num_micro_batches: int):
    stage = Stage(index, num_stages, (2,) * num_chunks)
    return held_in_training(stage, num_micro_batches, trains_base=True)


def test_the_first_chunk_receives_nothing():
    # Of 17 chunks in flight, rounds of 3 x 5: three of the first chunk, then two or three more.
    first, second = (held(i, 3, 5, 6).backward for i in (0, 1))
    assert {at.num_inputs for at in first if at.num_chunks == 17} == {11, 12}
    assert {at.num_inputs for at in second if at.num_chunks == 15} == {15}


def test_few_chunks_are_left_when_the_embeddings_backward_comes():
    # 3 micro-batches of 5 chunks: 12 of the 15 have had their backward.
    assert max(at.num_chunks for at in held(0, 3, 5, 3).embedding) == 3
    assert max(at.num_chunks for at in held(0, 3, 5, 6).embedding) == 17
    assert max(at.num_chunks for at in held(0, 4, 1, 8).embedding) == 4


def test_an_interleaved_first_stage_holds_an_input_and_its_gradient_of_each_chunk_but_one():
    # The output that is sent and the next input are there in every backward of the full pipeline;
    # the gradient of the backward before is that of an input that is still held, or beside them.
    for num_chunks in (2, 3):
        full = [at for at in held(0, 2, num_chunks, 12).backward if at.num_chunks > num_chunks * 2]
        assert max(at.num_between for at in full) == 2 * num_chunks - 1


def test_what_an_interleaved_schedule_holds_is_that_of_a_step_by_hand():
    # Two stages of two chunks, two micro-batches a and b. Stage 1 runs forwards a0 b0 a1 b1, and
    # after the first two a backward behind each, a1 b1 a0 b0. At a1's the next input is there,
    # b1's. At b1's a1's gradient, with a1's input, which the variable of the warm-up keeps. At
    # a0's also b1's input, chunk 1's latest, with its gradient, and at b0's the gradient of a0.
    last = held(1, 2, 2, 2)
    assert last.backward == {Held(3, 3, 1), Held(3, 3, 2), Held(2, 2, 4), Held(1, 1, 5)}
    # At a1's loss nothing is beside; at b1's what a1's backward has left.
    assert last.loss == {Held(3, 3, 0), Held(3, 3, 2)}
    # Stage 0 runs all four forwards first.
    first = held(0, 2, 2, 2)
    assert first.loss == frozenset()
    assert first.backward == {Held(4, 2, 0), Held(3, 1, 1), Held(2, 0, 2), Held(1, 0, 2)}


def test_1f1b_holds_the_gradient_of_the_input_before():
    assert held(1, 4, 1, 8).backward == {Held(3, 3, 1)}
    assert held(0, 4, 1, 8).backward == {Held(4, 0, 0)}
    # In the forward also that input, and what was received for the next backward.
    assert held(1, 4, 1, 8).forward == {Held(3, 3, 3)}
    assert held(3, 4, 1, 8).loss == {Held(1, 1, 2)}


@pytest.mark.parametrize(
    ("index", "num_chunks", "num_micro_batches", "expected"),
    [
        # Of the micro-batch before the output, with the input that it was made from.
        (0, 1, 8, 1),
        (1, 1, 8, 2),
        (3, 1, 8, 0),
        (1, 1, 1, 0),
        # The input before, and that of the latest forward of both other chunks.
        (1, 3, 8, 3),
        # The model's first chunk receives none; nothing holds the input of its last.
        (0, 3, 8, 2),
        (3, 3, 8, 2),
    ],
)
def test_a_teachers_stage_holds_little(index, num_chunks, num_micro_batches, expected):
    stage = Stage(index, 4, (2,) * num_chunks)
    assert num_held_in_forward(stage, num_micro_batches) == expected


# N = 300 tokens of 576 floats between two layers, and 5 widths of 1,536 in the MLP.
BATCH = Batch(rows=3, tokens=100)
BOUNDARY, MLP, NORM = 300 * 576 * 4, 300 * 5 * 1536 * 4, 300 * (3 * 576 * 4 + 4)
LAYER = layer_bytes(stage_of_smol(0, 2, 15), BATCH)


@pytest.mark.parametrize(
    ("recompute", "kept", "repeated"),
    [
        (Recompute(), 15 * LAYER, 0),
        (Recompute("full", "uniform", 5), 3 * BOUNDARY, 5 * LAYER),
        (Recompute("full", "uniform", 20), BOUNDARY, 15 * LAYER),
        (Recompute("full", "block", 4), 4 * BOUNDARY + 11 * LAYER, 0),
        (Recompute("full", "block", 15), 15 * BOUNDARY, LAYER),
        (Recompute("selective", modules=("mlp",)), 15 * (LAYER - MLP), MLP + BOUNDARY),
        (Recompute("selective", modules=("core_attn",)), 15 * (LAYER - 300 * 9 * 4), 0),
        (
            Recompute("selective", modules=("layernorm",)),
            15 * (LAYER - 2 * (NORM - BOUNDARY)),
            NORM,
        ),
    ],
)
def test_recompute_keeps_inputs_and_makes_the_rest_again(recompute, kept, repeated):
    model = stage_of_smol(0, 2, 15, recompute=recompute)
    (last,) = places(model, BATCH)
    assert (chunk_bytes(model, BATCH), last.repeated) == ((kept,), repeated)


def test_beside_a_layer_of_another_kind_later_layers_are_not_there():
    moe = MoeShape(4, 2, 512)
    shape, stage = replace(SMOLLM2, moe=moe), Stage(0, 1, (3,), ((2,),))
    model = RankModel(
        shape, Dtype.FP32, 49152, 1, False, TORCH_ON_CPU, stage, experts=ExpertShare(moe)
    )
    with_experts, dense = (kept_layer_bytes(kind, BATCH) for kind in model.kinds)
    assert chunk_bytes(model, BATCH) == (2 * with_experts + dense,)
    layers = places(model, BATCH)
    assert [place.freed for place in layers] == [0, dense, dense + with_experts]
    assert [place.model.experts is None for place in layers] == [True, False, False]
    assert most_by_chunk(layers, lambda place: place.freed + 1) == {0: 1}


def test_norms_that_are_part_of_a_projection_are_not_dropped():
    dropping = Recompute("selective", modules=("layernorm",))
    plain, dropped = (
        RankModel(
            LLAMA_8B, Dtype.BF16, 128256, 2, True, FUSED, Stage(0, 1, (32,)), recompute=recompute
        )
        for recompute in (Recompute(), dropping)
    )
    assert chunk_bytes(plain, BATCH) == chunk_bytes(dropped, BATCH)
    assert [place.repeated for place in places(dropped, BATCH)] == [0]


PIPELINE = {
    "cluster": {"devices_per_node": 3, "num_nodes": 2},
    "student": {"model": "student", "dtype": "fp32", "parallel": {"pipeline": 2}},
    "teacher": {"model": "teacher", "offload": "cpu"},
    "batch": {"micro": 1, "global": 6},
}


def test_only_the_stages_of_the_loss_hold_its_buffers():
    tables = PIPELINE | {"optimizer": {"distributed": False}, "teacher": {"model": "teacher"}}
    ledger = price(plan(**tables), facts(SMOLLM2, SMOLLM2)).ledger
    first, last = (memory.phases[Phase.STUDENT].rows for memory in ledger.classes)
    ends = {"payload (hidden)", "loss tiles", "teacher head"}
    assert ends & first.keys() == set()
    assert ends <= last.keys()
    peaks = [memory.phases[ledger.peak_phase].peak_bytes for memory in ledger.classes]
    assert ledger.peak_bytes == max(peaks)
    assert ledger.fullest_class is ledger.classes[peaks.index(max(peaks))]


def test_a_node_holds_the_teacher_of_all_its_ranks():
    # Six ranks on nodes of three, the teacher in three stages of two: node 0 holds two first stages
    # and one middle one, node 1 one middle one and two last ones, whose heads stay on the device.
    tables = PIPELINE | {
        "teacher": {"model": "teacher", "offload": "cpu", "parallel": {"pipeline": 3}}
    }
    priced = price(plan(**tables), facts(SMOLLM2, SMOLLM2))
    layers = 10 * 3_540_096 * 4
    assert priced.ledger.host_bytes_per_node == 3 * layers + 2 * MATRIX * 4
    assert {move.num_bytes for move in priced.moves} == {layers + MATRIX * 4}
