"""Tiny Hugging Face checkpoints with a real tokenizer and chat template, for whole runs."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SENTENCES = [
    "the quick brown fox jumps over the lazy dog",
    "what is the sum of two and three? it is five",
    "name a colour of the sky: blue, and at dusk it is red",
]
ROWS = [
    ("what is two and two?", "it is four"),
    ("name a colour", "blue"),
    ("what does the fox do?", "the fox jumps over the lazy dog and over the red one"),
    ("say five", "five, and five again"),
    ("is the sky red?", "at dusk it is"),
    ("name a dog that jumps over the fox at dusk", "the lazy one"),
    ("sum?", "the sum of two and three is five"),
    ("what is blue?", "the sky"),
]


def save_tokenizer(directory: Path) -> int:
    """Train a byte-level BPE on a few sentences and save it; returns its true size."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
    )
    fast.save_pretrained(directory)
    return len(fast)


def save_llama(
    directory: Path,
    *,
    num_layers: int = 2,
    hidden: int = 32,
    ffn: int = 48,
    vocab_size: int = 304,
    max_positions: int = 128,
    seed: int = 0,
) -> Path:
    """A random Llama with 4 heads over 2 kv heads and an untied head of padded size."""
    sizes = _sizes(num_layers, hidden, ffn)
    sizes |= {"vocab_size": vocab_size, "max_position_embeddings": max_positions}
    config = LlamaConfig(**sizes, tie_word_embeddings=False)
    return _save(directory, LlamaForCausalLM, config, seed)


def save_qwen2(
    directory: Path,
    *,
    num_layers: int = 2,
    hidden: int = 32,
    ffn: int = 48,
    num_heads: int = 4,
    vocab_size: int = 304,
    max_positions: int = 128,
    seed: int = 0,
) -> Path:
    """A random Qwen2 with qkv biases and a tied head."""
    sizes = _sizes(num_layers, hidden, ffn)
    sizes |= {"num_attention_heads": num_heads, "vocab_size": vocab_size}
    sizes |= {"max_position_embeddings": max_positions}
    config = Qwen2Config(**sizes, tie_word_embeddings=True)
    return _save(directory, Qwen2ForCausalLM, config, seed)


def save_qwen3(
    directory: Path, *, num_layers: int = 2, hidden: int = 32, ffn: int = 48, seed: int = 0
) -> Path:
    """A random Qwen3 with q and k norms and a tied head."""
    config = Qwen3Config(**_sizes(num_layers, hidden, ffn), head_dim=8, tie_word_embeddings=True)
    return _save(directory, Qwen3ForCausalLM, config, seed)


def save_qwen3_moe(
    directory: Path,
    *,
    num_layers: int = 2,
    hidden: int = 32,
    num_experts: int = 4,
    per_token: int = 2,
    ffn: int = 16,
    dense: Sequence[int] = (),
    seed: int = 0,
) -> Path:
    """A random Qwen3 with experts of width `ffn` in every layer but the dense ones, which are 48
    wide, and an untied head."""
    config = Qwen3MoeConfig(
        **_sizes(num_layers, hidden, 48),
        head_dim=8,
        num_experts=num_experts,
        num_experts_per_tok=per_token,
        moe_intermediate_size=ffn,
        mlp_only_layers=list(dense),
        tie_word_embeddings=False,
    )
    return _save(directory, Qwen3MoeForCausalLM, config, seed)


def save_olmoe(directory: Path, *, hidden: int = 32, ffn: int = 16, seed: int = 0) -> Path:
    """A random OLMoE of 2 layers with 4 experts of width `ffn`, and an untied head."""
    config = OlmoeConfig(
        **_sizes(2, hidden, ffn), num_experts=4, num_experts_per_tok=2, tie_word_embeddings=False
    )
    return _save(directory, OlmoeForCausalLM, config, seed)


def save_family(
    directory: Path,
    model_type: str,
    *,
    num_layers: int = 2,
    hidden: int = 32,
    ffn: int = 48,
    seed: int = 0,
    **keys: object,
) -> Path:
    """A random model of any family that transformers knows, with more keys of its config."""
    config = AutoConfig.for_model(model_type, **_sizes(num_layers, hidden, ffn) | keys)
    model = AutoModelForCausalLM.from_config(config)
    return _save(directory, type(model), config, seed)


def save_rows(path: Path, rows: list[tuple[str, str]] = ROWS) -> Path:
    """Chat rows as JSON Lines."""
    lines = [
        json.dumps(
            {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
        )
        for q, a in rows
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _sizes(num_layers: int, hidden: int, ffn: int) -> dict[str, int]:
    return {
        "vocab_size": 304,
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_hidden_layers": num_layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "bos_token_id": None,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }


def _save(directory: Path, kind: type, config: object, seed: int) -> Path:
    torch.manual_seed(seed)
    model = kind(config).float()
    with torch.no_grad():
        biases = (row for row in model.named_buffers() if row[0].endswith("correction_bias"))
        for name, parameter in (*model.named_parameters(), *biases):
            is_one = "norm" in name and not config.model_type.startswith("gemma")
            centre = 1.0 if is_one else 0.0
            parameter.copy_(centre + 0.15 * torch.randn_like(parameter))
    model.save_pretrained(directory)
    save_tokenizer(directory)
    return directory
