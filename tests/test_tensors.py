"""The tensors of a checkpoint against the shape's own count of parameters."""

from dataclasses import replace
from math import prod

from hypothesis import given
from hypothesis import strategies as st

from gkdplan.experts import MoeShape
from gkdplan.families.tensors import expected_tensors
from gkdplan.shape import ModelShape

EXPERTS = st.builds(
    MoeShape,
    num_experts=st.integers(1, 5),
    num_experts_per_token=st.just(1),
    expert_ffn_hidden_size=st.integers(1, 9),
    shared_ffn_hidden_size=st.integers(0, 9),
    shared_expert_gate=st.booleans(),
)


@given(
    st.sampled_from(["llama", "mixtral"]),
    st.integers(1, 4),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.none() | EXPERTS,
    st.frozensets(st.integers(0, 3)),
)
def test_tensors_sum_to_the_shapes_own_count(
    family: str,
    num_layers: int,
    tied: bool,
    bias: bool,
    norm: bool,
    moe: MoeShape | None,
    dense: frozenset[int],
) -> None:
    if moe is not None:
        moe = replace(moe, dense_layers=(*dense,)).keeping(range(num_layers))
    shape = ModelShape(
        family=family,
        hidden_size=6,
        num_layers=num_layers,
        num_attention_heads=4,
        num_kv_heads=2,
        head_dim=3,
        ffn_hidden_size=8,
        vocab_size=10,
        max_position_embeddings=16,
        norm_eps=1e-6,
        rope_theta=1e4,
        tied_embeddings=tied,
        qkv_bias=bias,
        qk_norm=norm,
        moe=moe,
    )
    tensors = expected_tensors(shape)
    assert sum(map(prod, tensors.values())) == shape.num_parameters
    with_experts = {name.split(".")[2] for name in tensors if ".experts.0." in name}
    num_with_experts = 0 if moe is None else len({*range(num_layers)} - dense)
    assert len(with_experts) == num_with_experts == num_layers - shape.num_dense_layers
