"""Pairs of models that differ in width, depth, heads and rows of the vocabulary."""

from collections.abc import Callable
from pathlib import Path

import tiny


def qwen3_to_llama(home: Path) -> None:
    tiny.save_qwen3(home / "teacher", num_layers=8, hidden=48, seed=1)
    tiny.save_llama(home / "student", num_layers=4, hidden=32, seed=2)


def llama_to_tied_qwen2(home: Path) -> None:
    tiny.save_llama(home / "teacher", num_layers=4, hidden=40, ffn=64, vocab_size=312, seed=3)
    tiny.save_qwen2(home / "student", num_layers=4, hidden=48, seed=4)


def experts_to_experts(home: Path) -> None:
    tiny.save_qwen3_moe(home / "teacher", num_layers=4, hidden=48, num_experts=8, seed=5)
    tiny.save_qwen3_moe(home / "student", num_layers=2, seed=6)


def dense_to_experts(home: Path) -> None:
    tiny.save_qwen3(home / "teacher", num_layers=4, hidden=48, seed=7)
    tiny.save_qwen3_moe(home / "student", num_layers=2, seed=8)


def experts_to_dense(home: Path) -> None:
    tiny.save_qwen3_moe(home / "teacher", num_layers=2, hidden=48, seed=9)
    tiny.save_qwen2(home / "student", num_layers=2, seed=10)


def olmoe_to_olmoe(home: Path) -> None:
    tiny.save_olmoe(home / "teacher", hidden=48, seed=11)
    tiny.save_olmoe(home / "student", seed=12)


def mixed_to_mixed(home: Path) -> None:
    """The first of two stages of the student has no experts; of the teacher each has."""
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    experts |= {"shared_expert_intermediate_size": 24, "decoder_sparse_step": 2}
    tiny.save_family(
        home / "teacher",
        "qwen2_moe",
        num_layers=4,
        hidden=48,
        seed=13,
        mlp_only_layers=[],
        **experts,
    )
    tiny.save_qwen3_moe(home / "student", num_layers=4, dense=(0, 1), seed=14)


PAIRS: dict[str, Callable[[Path], None]] = {
    "qwen3 to llama": qwen3_to_llama,
    "llama to tied qwen2": llama_to_tied_qwen2,
    "experts to experts": experts_to_experts,
    "dense to experts": dense_to_experts,
    "experts to dense": experts_to_dense,
    "olmoe to olmoe": olmoe_to_olmoe,
    "mixed to mixed": mixed_to_mixed,
}


def make_pair(name: str, home: Path) -> Path:
    """Both models and the rows that they learn from, in a new directory."""
    home.mkdir()
    PAIRS[name](home)
    tiny.save_rows(home / "rows.jsonl")
    return home
