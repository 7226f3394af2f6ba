"""Parameter tensors and training state of one rank, against numbers derived by hand."""

import pytest
from planner_facts import QWEN_3B, QWEN_7B, SMOLLM2

from gkdplan.planner.memory.optimizer import GradientBuffer, training_state
from gkdplan.planner.memory.parameters import Parameter, num_elements, parameters_of_chunk
from gkdplan.vocab import Dtype


def test_smollm2_has_its_published_number_of_parameters():
    assert num_elements(parameters_of_chunk(SMOLLM2, 49152, 1, SMOLLM2.num_layers)) == 134_515_008


def test_a_third_of_smollm2_keeps_whole_norms():
    # A layer: q and o 576 x 576, k and v 576 x 192, gated MLP 3 x 576 x 1536: 3,538,944, of which a
    # third is 1,179,648; two norms of 576. 30 layers, a third of the 49,152 x 576 embedding, and
    # the final norm.
    parameters = parameters_of_chunk(SMOLLM2, 49152, 3, SMOLLM2.num_layers)
    assert num_elements(parameters) == 30 * (1_179_648 + 1_152) + 9_437_184 + 576


def test_an_untied_head_and_padding_count_on_every_rank():
    # Qwen2.5-7B: 7,615,616,512 parameters with 152,064 rows; 64 more rows in two matrices.
    padded = num_elements(parameters_of_chunk(QWEN_7B, 152_064 + 64, 1, QWEN_7B.num_layers))
    assert padded == 7_615_616_512 + 2 * 64 * 3584


def test_biases_follow_the_projection_that_is_divided():
    # A layer of Qwen2.5-3B on two ranks: qkv (2048 + 2 x 256) / 2 = 1280 rows.
    names = {
        p.name: p.num_elements for p in parameters_of_chunk(QWEN_3B, 151_936, 2, QWEN_3B.num_layers)
    }
    assert names["decoder.layers.0.self_attention.linear_qkv.weight"] == 1280 * 2048
    assert names["decoder.layers.0.self_attention.linear_qkv.bias"] == 1280
    assert names["decoder.layers.0.self_attention.linear_proj.weight"] == 2048 * 1024
    assert names["decoder.layers.0.mlp.linear_fc1.weight"] == 2 * 5504 * 2048
    assert "output_layer.weight" not in names


def state_of(parameters, dtype, data, *, distributed):
    buffers = (GradientBuffer(parameters, data),)
    return training_state(buffers, dtype, distributed=distributed)


THREE = tuple(Parameter(name, size) for name, size in (("a", 10), ("b", 70), ("c", 64)))


@pytest.mark.parametrize(
    ("data", "owned"),
    [
        # Backwards and aligned to 64: c at 0..64, b at 64..134, a at 192..202; the end is padded
        # to 256. One rank owns all 144 elements.
        (1, 144),
        # Two halves of 128: the first holds no padding.
        (2, 128),
        # 384 = lcm(3, 128) in thirds of 128: c and 64 of b; 6 of b and a; nothing.
        (3, 128),
    ],
)
def test_buffers_are_padded_and_the_largest_share_is_given(data, owned):
    length = 384 if data == 3 else 256
    state = state_of(THREE, Dtype.FP32, data, distributed=True)
    assert state.parameter_bytes == state.gradient_bytes == 4 * length
    assert state.optimizer_bytes == 8 * owned


def test_without_a_distributed_optimizer_nothing_is_padded_or_divided():
    state = state_of(THREE, Dtype.BF16, 2, distributed=False)
    assert (state.parameter_bytes, state.gradient_bytes) == (2 * 144, 4 * 144)
    assert state.optimizer_bytes == 12 * 144


def test_smollm2_in_fp32_keeps_two_moments_of_its_share():
    # All sizes are multiples of 64, so only the end is padded: by 64 elements, to a multiple of
    # 128. The first of two halves of 134,515,072 holds no padding.
    parameters = parameters_of_chunk(SMOLLM2, 49152, 1, SMOLLM2.num_layers)
    alone = state_of(parameters, Dtype.FP32, 1, distributed=True)
    assert alone.parameter_bytes == alone.gradient_bytes == 4 * 134_515_072
    assert alone.optimizer_bytes == 8 * 134_515_008
    halved = state_of(parameters, Dtype.FP32, 2, distributed=True)
    assert halved.optimizer_bytes == 8 * 67_257_536


def test_bf16_keeps_float32_main_weights_beside_the_moments():
    # The field's rule: 6 bytes a parameter and 12 divided over the data axis.
    parameters = parameters_of_chunk(SMOLLM2, 49152, 1, SMOLLM2.num_layers)
    state = state_of(parameters, Dtype.BF16, 2, distributed=True)
    assert state.parameter_bytes + state.gradient_bytes == 6 * 134_515_072
    assert state.optimizer_bytes == 12 * 67_257_536


def test_absurdly_many_ranks_cost_no_time():
    state = state_of(THREE, Dtype.FP32, 10**12, distributed=True)
    assert state.optimizer_bytes > 0


def test_an_update_makes_two_arrays_of_a_piece_beside_one_of_the_piece_before():
    # Last one first: b at 0-60, a from the next multiple of 64: 64-164; the buffer ends at 256, so
    # shards meet at 128: a is cut into 64 and 36. The first shard updates b, then 64 of a.
    parameters = (Parameter("a", 100), Parameter("b", 60))
    state = state_of(parameters, Dtype.BF16, 2, distributed=True)
    assert state.owned_elements == 60 + 64
    assert state.update_bytes == (2 * 64 + 60) * 4
    # Not divided, a is the first and b, the smaller, the second: 2 x 100 or 2 x 60 + 100.
    assert state_of(parameters, Dtype.BF16, 2, distributed=False).update_bytes == 220 * 4
    # A vector in between is updated with the other vectors.
    between = (parameters[0], Parameter("norm", 7, is_vector=True), parameters[1])
    assert state_of(between, Dtype.BF16, 2, distributed=False).update_bytes == 220 * 4


@pytest.mark.parametrize("distributed", [True, False])
def test_the_piece_before_can_be_of_another_chunk_but_not_of_divided_experts(distributed):
    # Of two chunks the second has one matrix of 100, whose update comes after that of a, 64 wide.
    first, second = Parameter("a", 64), Parameter("head", 100)
    chunks = tuple(GradientBuffer((parameter,), 1) for parameter in (first, second))
    state = training_state(chunks, Dtype.BF16, distributed=distributed)
    assert state.update_bytes == (2 * 100 + 64) * 4
    divided = GradientBuffer((Parameter("e", 90, is_divided=True),), 1)
    state = training_state((*chunks, divided), Dtype.BF16, distributed=distributed)
    assert state.update_bytes == (2 * 100 + 64) * 4
    between = training_state((divided, chunks[1]), Dtype.BF16, distributed=distributed)
    assert between.update_bytes == 2 * 100 * 4
