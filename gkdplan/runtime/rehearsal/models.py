"""Small models with random weights, as Hugging Face directories, and rows to learn from."""

import json
import math
import random
import zlib
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from gkdplan.families import FAMILIES
from gkdplan.families.activations import ACTIVATIONS
from gkdplan.families.experts import written_experts
from gkdplan.families.packed import tensors_in_files
from gkdplan.families.rope import written_rope
from gkdplan.runtime.rehearsal.eyes import (
    IMAGE,
    IMAGE_TOKENS,
    chat_template_of,
    config_of,
    processor_of,
    seeing_row,
    settings_of_tokenizer,
)
from gkdplan.shape import ModelShape
from gkdplan.vision import VisionShape, name_on_disk

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}>{% endif %}"
)

_SCALES = ("norm", "ln_q", "lambda")
PACKED_DIMS = 3
"""Of experts that a file packs; a map from pixels has more."""


def write_model(directory: Path, shape: ModelShape, seed: int) -> None:
    """config.json, model.safetensors and a tokenizer of bytes, in a new directory."""
    directory.mkdir()
    vision, config = shape.vision, _config(shape)
    if vision is not None:
        config = config_of(shape, vision, config)
        processor_of(vision).save_pretrained(directory)
    (directory / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    tensors = {
        name_on_disk(vision, name): _drawn(name, size, seed)
        for name, size in tensors_in_files(shape).items()
    }
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    _tokenizer(vision).save_pretrained(directory)


def write_rows(path: Path, num_rows: int, seed: int, *, with_images: bool = False) -> None:
    """Rows of unequal lengths, so that micro-batches differ in theirs, and where there are images
    in their number too."""
    letters = random.Random(seed)
    rows = []
    for number in range(num_rows):
        prompt, response = (_words(letters, letters.randint(2, longest)) for longest in (20, 10))
        text = json.dumps({"prompt": prompt, "completion": response})
        rows.append(seeing_row(number, prompt, response, letters) if with_images else text)
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def _words(letters: random.Random, length: int) -> str:
    return "".join(letters.choices("abcdefghijklmnopqrstuvwxyz", k=length))


def _drawn(name: str, size: tuple[int, ...], seed: int) -> Tensor:
    """Normal around 1 for norms, and what scales a tower's layers, and 0 for others, so wide that
    states keep their size from layer to layer and no expert or head is like another."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    noise = torch.randn(size, generator=generator)
    if len(size) == 1:
        is_scale = any(word in name for word in _SCALES) and not name.endswith("bias")
        return 0.2 * noise + (1.0 if is_scale else 0.0)
    is_of_pixels = len(size) > PACKED_DIMS
    return noise / math.sqrt(math.prod(size[1:]) if is_of_pixels else size[-1])


def _config(shape: ModelShape) -> dict[str, Any]:
    """The keys by which transformers, and this project's facts, know the shape again."""
    family = FAMILIES[shape.family]
    experts = {} if family.experts is None else written_experts(family.experts, shape)
    return {
        "architectures": [family.architecture],
        "model_type": shape.family,
        "hidden_size": shape.hidden_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_attention_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.ffn_hidden_size,
        "vocab_size": shape.vocab_size,
        "max_position_embeddings": shape.max_position_embeddings,
        "rms_norm_eps": shape.norm_eps,
        "rope_parameters": written_rope(shape),
        "tie_word_embeddings": shape.tied_embeddings,
        family.activation_keys[0]: ACTIVATIONS[shape.activation],
        **family.write(shape),
        **experts,
    }


def _tokenizer(vision: VisionShape | None) -> PreTrainedTokenizerFast:
    """One token a byte, and an end; of a model that sees three for images too."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<|end|>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    of_vision: dict[str, Any] = {}
    if vision is not None:
        tokenizer.add_special_tokens([*IMAGE_TOKENS])
        assert tokenizer.token_to_id(IMAGE) == vision.image_token_id
        of_vision = settings_of_tokenizer(vision)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        pad_token="<|end|>",
        chat_template=CHAT_TEMPLATE if vision is None else chat_template_of(vision),
        **of_vision,
    )
