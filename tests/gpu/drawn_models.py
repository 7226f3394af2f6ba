"""Models of a real size with drawn weights, and rows that fill a plan to its last token."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from gkdplan.facts.config import read_shape
from gkdplan.families.tensors import expected_tensors

VOCAB_SIZE = 151_936
PROMPT_TOKENS, COMPLETION_TOKENS = 1024, 256
STUDENT = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 64,
}
TEACHER = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
}
"""0.53 B and 1.0 B parameters."""


def make_home(home: Path, num_rows: int) -> Path:
    """A student without weights, whose plan draws them, a teacher with them, and rows."""
    home.mkdir(exist_ok=True)
    for name, sizes in (("student", STUDENT), ("teacher", TEACHER)):
        (home / name).mkdir()
        (home / name / "config.json").write_text(json.dumps(_config(sizes)))
        _save_tokenizer(home / name)
    shape, findings = read_shape(_config(TEACHER), "teacher")
    assert shape is not None, findings
    _draw(expected_tensors(shape), home / "teacher" / "model.safetensors")
    row = {"prompt": "a" * PROMPT_TOKENS, "completion": "b" * (COMPLETION_TOKENS - 1)}
    (home / "rows.jsonl").write_text(f"{json.dumps(row)}\n" * num_rows)
    return home


def _config(sizes: dict[str, int]) -> dict[str, object]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": VOCAB_SIZE,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "attention_bias": False,
        "eos_token_id": VOCAB_SIZE - 1,
        **sizes,
    }


def _draw(shapes: dict[str, tuple[int, ...]], file: Path) -> None:
    """Matrices of small normal numbers, norms of ones, bf16."""
    torch.manual_seed(0)
    tensors = {
        name: torch.ones(shape, dtype=torch.bfloat16)
        if name.endswith("norm.weight")
        else (torch.randn(shape, device="cuda", dtype=torch.bfloat16) * 0.02).cpu()
        for name, shape in shapes.items()
    }
    save_file(tensors, file, metadata={"format": "pt"})


def _save_tokenizer(directory: Path) -> None:
    """A token a byte, and names for all other ids: a text has as many tokens as letters."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*letters, *(f"<|{n}|>" for n in range(VOCAB_SIZE - 1 - len(letters))), "<|end|>"]
    vocab = {name: index for index, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")
    fast.save_pretrained(directory)
