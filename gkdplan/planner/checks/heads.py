"""Rules of the tensor axis: the heads and columns that it must divide."""

from collections.abc import Iterator

from gkdplan.facts.model import Facts
from gkdplan.planner.checks.degrees import undivided
from gkdplan.planner.checks.laid_out import laid_out
from gkdplan.planner.checks.possible import (
    attention_heads_divide,
    ffn_columns,
    kv_heads_divide,
    num_qkv_columns,
    qkv_columns_divide,
)
from gkdplan.planner.checks.rule import Finding, rule
from gkdplan.shape import ModelShape
from gkdplan.spec.plan import Plan


@rule("GK202")
def attention_heads_divide_by_tensor(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """num_attention_heads % tensor (megatron/core/transformer/transformer_config.py)."""
    for model in laid_out(plan, facts, lambda shape: shape.num_attention_heads):
        if not attention_heads_divide(model):
            heads = model.shape.num_attention_heads
            yield undivided(
                plan,
                facts,
                model,
                "tensor",
                f"{heads} attention heads",
                model.origin_of("num_attention_heads", heads),
                "each rank would own part of a head",
            )


@rule("GK203")
def kv_heads_divide_by_tensor(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """num_kv_heads % tensor, or tensor % num_kv_heads, where ranks share a head
    (megatron/core/transformer/transformer_config.py)."""
    for model in laid_out(plan, facts, lambda shape: shape.num_kv_heads):
        if not kv_heads_divide(model):
            heads = model.shape.num_kv_heads
            yield undivided(
                plan,
                facts,
                model,
                "tensor",
                f"{heads} kv heads",
                model.origin_of("num_key_value_heads", heads),
                "each rank would own part of a head",
            )


@rule("GK209")
def qkv_columns_divide_by_tensor(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """The fused projection's columns % tensor, which the heads allow where ranks share kv heads
    (megatron/core/transformer/attention.py)."""
    for model in laid_out(plan, facts, lambda shape: (shape.query_size, shape.kv_size)):
        if (
            attention_heads_divide(model)
            and kv_heads_divide(model)
            and not qkv_columns_divide(model)
        ):
            shape = model.shape
            heads = f"{shape.num_attention_heads} + 2 x {shape.num_kv_heads}"
            yield undivided(
                plan,
                facts,
                model,
                "tensor",
                f"{num_qkv_columns(model)} columns of queries, keys and values",
                model.origin_of("heads x head_dim", f"({heads}) x {shape.head_dim}"),
                "each rank owns an equal share of them",
            )


@rule("GK204")
def ffn_divides_by_tensor(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """ffn_hidden_size % tensor (megatron/core/tensor_parallel/layers.py)."""
    for model in laid_out(plan, facts, _mlp_sizes):
        for key, columns in ffn_columns(model).items():
            if columns % model.parallel.tensor:
                yield undivided(
                    plan,
                    facts,
                    model,
                    "tensor",
                    f"{columns} ffn columns",
                    model.origin_of(key, columns),
                    "each rank owns an equal share of them",
                )


RULES = (
    attention_heads_divide_by_tensor,
    kv_heads_divide_by_tensor,
    qkv_columns_divide_by_tensor,
    ffn_divides_by_tensor,
)


def _mlp_sizes(shape: ModelShape) -> object:
    return (shape.moe, shape.ffn_hidden_size)
