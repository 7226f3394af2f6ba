"""Facts and plans for the planner's tests, built by hand: no file is read."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gkdplan.facts.devices import DEVICES
from gkdplan.facts.model import DataFile, Facts, ModelFacts, TokenizerFacts
from gkdplan.shape import ModelShape
from gkdplan.spec.plan import Plan

SMOLLM2 = ModelShape(
    family="llama",
    hidden_size=576,
    num_layers=30,
    num_attention_heads=9,
    num_kv_heads=3,
    head_dim=64,
    ffn_hidden_size=1536,
    vocab_size=49152,
    max_position_embeddings=8192,
    norm_eps=1e-5,
    rope_theta=100000.0,
    tied_embeddings=True,
    qkv_bias=False,
    qk_norm=False,
)
TINY = replace(
    SMOLLM2,
    hidden_size=96,
    num_layers=2,
    num_attention_heads=6,
    num_kv_heads=2,
    head_dim=16,
    ffn_hidden_size=160,
    vocab_size=500,
    max_position_embeddings=256,
)
QWEN_7B = replace(
    SMOLLM2,
    family="qwen2",
    hidden_size=3584,
    num_layers=28,
    num_attention_heads=28,
    num_kv_heads=4,
    head_dim=128,
    ffn_hidden_size=18944,
    vocab_size=152064,
    max_position_embeddings=32768,
    tied_embeddings=False,
    qkv_bias=True,
)
QWEN_3B = replace(
    QWEN_7B,
    hidden_size=2048,
    num_layers=36,
    num_attention_heads=16,
    num_kv_heads=2,
    ffn_hidden_size=11008,
    vocab_size=151936,
    tied_embeddings=True,
)


def tokenizer(tokens: Mapping[str, int] | None = None, **changes: Any) -> TokenizerFacts:
    """A tokenizer of 490 tokens; its fingerprint is that of its map."""
    tokens = {f"t{i}": i for i in range(490)} if tokens is None else tokens
    facts = TokenizerFacts(
        tokens=tokens,
        size=max(tokens.values()) + 1,
        eos_token="t0",
        pad_token=None,
        chat_template="{{ messages }}",
        fingerprint=str(hash(frozenset(tokens.items()))),
    )
    return replace(facts, **changes)


def model_facts(name: str, shape: ModelShape, tokens: TokenizerFacts | None) -> ModelFacts:
    return ModelFacts(name, shape, f"{name}/config.json", None, tokens)


def data_file(num_rows: int = 64, **changes: Any) -> DataFile:
    facts = DataFile(
        entry="rows.jsonl",
        path="rows.jsonl",
        limit=None,
        num_rows=num_rows,
        num_rows_with_response=num_rows,
        num_rows_with_messages=num_rows,
        fingerprint="ab" * 32,
    )
    return replace(facts, **changes)


def facts(
    student: ModelShape = TINY,
    teacher: ModelShape = TINY,
    device: str = "cpu",
    **changes: Any,
) -> Facts:
    """Two models with one tokenizer, and one file of 64 rows with responses."""
    both = tokenizer()
    return replace(
        Facts(
            student=model_facts("student", student, both),
            teacher=model_facts("teacher", teacher, both),
            device=DEVICES[device],
            train=(data_file(),),
            eval=(),
        ),
        **changes,
    )


def plan(**tables: Mapping[str, Any]) -> Plan:
    """A plan for one CPU rank with the tables' keys laid over it."""
    base: dict[str, dict[str, Any]] = {
        "student": {"model": "student", "dtype": "fp32"},
        "teacher": {"model": "teacher"},
        "generation": {"max_completion_length": 32},
        "data": {"train": ("rows.jsonl",), "max_length": 32},
        "batch": {"micro": 2, "global": 8},
    }
    merged = {name: {**base.get(name, {}), **keys} for name, keys in tables.items()}
    return Plan.model_validate({"name": "test", **base, **merged})
