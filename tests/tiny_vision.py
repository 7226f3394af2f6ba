"""Tiny vision-language checkpoints with tokenizer and image processor, and real images."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tiny import save_tokenizer
from tokenizers import AddedToken
from transformers import (
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoTokenizer,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    GotOcr2ImageProcessorPil,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

IMAGE_TOKEN = "<image>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INTERN_TOKENS = {
    "start_image_token": "<img>",
    "context_image_token": "<IMG_CONTEXT>",
    "end_image_token": "</img>",
    "video_token": "<video>",
}
QWEN_TOKENS = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>")
NUM_PIXELS = 12
PATCH = 4
TILE = 16
TOKENS_PER_IMAGE = (NUM_PIXELS // PATCH) ** 2


def save_llava(
    directory: Path,
    *,
    num_layers: int = 2,
    hidden: int = 32,
    ffn: int = 48,
    tower_hidden: int = 16,
    tower_layers: int = 3,
    feature_layer: int = -2,
    strategy: str = "default",
    bias: bool = True,
    decoder: type = LlamaConfig,
    tied: bool = False,
    seed: int = 0,
) -> Path:
    """A random LLaVA: CLIP before a decoder with 4 heads over 2 kv heads."""
    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        hidden_size=tower_hidden,
        intermediate_size=2 * tower_hidden,
        num_hidden_layers=tower_layers,
        num_attention_heads=2,
        image_size=NUM_PIXELS,
        patch_size=PATCH,
    )
    text = decoder(
        vocab_size=304,
        hidden_size=hidden,
        intermediate_size=ffn,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=tied,
    )
    image_token = save_eyes(directory)
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image_token,
        vision_feature_layer=feature_layer,
        vision_feature_select_strategy=strategy,
        multimodal_projector_bias=bias,
        tie_word_embeddings=tied,
    )
    return _save(directory, LlavaForConditionalGeneration(config))


def save_qwen_vl(
    directory: Path,
    *,
    num_layers: int = 2,
    hidden: int = 32,
    ffn: int = 48,
    tower_hidden: int = 16,
    tower_layers: int = 3,
    sections: tuple[int, int, int] = (1, 1, 2),
    tied: bool = False,
    seed: int = 0,
) -> Path:
    """A random Qwen2.5-VL, whose windows hold 2 x 2 tokens and whose second layer looks at all."""
    torch.manual_seed(seed)
    image_token = save_qwen_eyes(directory)
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": tower_layers,
            "hidden_size": tower_hidden,
            "intermediate_size": tower_hidden + 4,
            "num_heads": 2,
            "patch_size": PATCH,
            "window_size": 4 * PATCH,
            "out_hidden_size": hidden,
            "fullatt_block_indexes": [1],
        },
        text_config={
            "vocab_size": 304,
            "hidden_size": hidden,
            "intermediate_size": ffn,
            "num_hidden_layers": num_layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "rms_norm_eps": 1e-6,
            "bos_token_id": None,
            "eos_token_id": 2,
            "rope_scaling": {"type": "mrope", "mrope_section": list(sections)},
        },
        image_token_id=image_token,
        video_token_id=303,
        vision_start_token_id=image_token - 1,
        vision_end_token_id=image_token + 1,
        tie_word_embeddings=tied,
    )
    return _save(directory, Qwen2_5_VLForConditionalGeneration(config))


def save_qwen3_vl(
    directory: Path,
    *,
    num_layers: int = 2,
    hidden: int = 32,
    ffn: int = 48,
    tower_hidden: int = 16,
    tower_layers: int = 3,
    sections: tuple[int, int, int] = (2, 1, 1),
    head_dim: int = 8,
    deep_layers: tuple[int, ...] = (0, 1),
    tied: bool = False,
    seed: int = 0,
    moe: dict[str, int] | None = None,
    kind: tuple[type, type] = (Qwen3VLConfig, Qwen3VLForConditionalGeneration),
) -> Path:
    """A random Qwen3-VL, whose tower speaks to the decoder's first layers."""
    torch.manual_seed(seed)
    image_token = save_qwen_eyes(directory)
    of_config, of_model = kind
    config = of_config(
        vision_config={
            "depth": tower_layers,
            "hidden_size": tower_hidden,
            "intermediate_size": 2 * tower_hidden,
            "num_heads": 2,
            "patch_size": PATCH,
            "out_hidden_size": hidden,
            "num_position_embeddings": 25,
            "deepstack_visual_indexes": list(deep_layers),
        },
        text_config={
            "vocab_size": 304,
            "hidden_size": hidden,
            "intermediate_size": ffn,
            "num_hidden_layers": num_layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": head_dim,
            "max_position_embeddings": 512,
            "rms_norm_eps": 1e-6,
            "eos_token_id": 2,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 500_000.0,
                "mrope_section": list(sections),
                "mrope_interleaved": True,
            },
            **(moe or {}),
        },
        image_token_id=image_token,
        video_token_id=303,
        vision_start_token_id=image_token - 1,
        vision_end_token_id=image_token + 1,
        tie_word_embeddings=tied,
    )
    return _save(directory, of_model(config))


def save_qwen3_vl_moe(directory: Path, *, experts: int = 4, **sizes: Any) -> Path:
    """The same with experts, two of which a token takes."""
    moe = {"num_experts": experts, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
    return save_qwen3_vl(
        directory, **sizes, moe=moe, kind=(Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration)
    )


def save_internvl(
    directory: Path,
    *,
    num_layers: int = 2,
    hidden: int = 32,
    ffn: int = 48,
    tower_hidden: int = 16,
    tower_layers: int = 2,
    decoder: type = Qwen2Config,
    tower: dict[str, object] | None = None,
    tied: bool = False,
    seed: int = 0,
) -> Path:
    """A random InternVL, whose tiles of 16 x 16 pixels have 4 tokens, before a decoder with
    "dynamic" rotary positions."""
    torch.manual_seed(seed)
    image_token = save_intern_eyes(directory)
    vision = {
        "hidden_size": tower_hidden,
        "intermediate_size": 2 * tower_hidden,
        "num_hidden_layers": tower_layers,
        "num_attention_heads": 2,
        "image_size": TILE,
        "patch_size": PATCH,
        "attention_bias": True,
        **(tower or {}),
    }
    text = decoder(
        vocab_size=304,
        hidden_size=hidden,
        intermediate_size=ffn,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=hidden // 4,
        max_position_embeddings=512,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e6},
        bos_token_id=None,
        eos_token_id=2,
        tie_word_embeddings=tied,
    )
    config = InternVLConfig(
        vision_config=vision,
        text_config=text.to_dict(),
        image_token_id=image_token,
        image_seq_length=(TILE // PATCH // 2) ** 2,
        tie_word_embeddings=tied,
    )
    return _save(directory, InternVLForConditionalGeneration(config))


def _save(directory: Path, model: PreTrainedModel) -> Path:
    model = model.float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_norm = any(part in name for part in ("norm", "ln_q")) and name.endswith("weight")
            parameter.copy_(float(is_norm) + 0.15 * torch.randn_like(parameter))
    model.save_pretrained(directory)
    return directory


def save_eyes(directory: Path) -> int:
    """The tokenizer with its image token, whose id is given, and CLIP's image processor."""
    size = {"height": NUM_PIXELS, "width": NUM_PIXELS}
    processor = CLIPImageProcessorPil(size={"shortest_edge": NUM_PIXELS}, crop_size=size)
    return _save_eyes(directory, processor, CHAT_TEMPLATE, (IMAGE_TOKEN,))


def save_qwen_eyes(directory: Path) -> int:
    """The same of Qwen2.5-VL, whose images take from 1 to 256 tokens."""
    processor = Qwen2VLImageProcessorPil(
        patch_size=PATCH,
        merge_size=2,
        temporal_patch_size=2,
        size={"shortest_edge": (2 * PATCH) ** 2, "longest_edge": 256 * (2 * PATCH) ** 2},
    )
    template = CHAT_TEMPLATE.replace(IMAGE_TOKEN, "".join(QWEN_TOKENS))
    return _save_eyes(directory, processor, template, QWEN_TOKENS)


def save_intern_eyes(directory: Path) -> int:
    """The same of InternVL, whose images are cut into 4 tiles at most, and whose tokenizer names
    the marks around them, which the template leaves out."""
    processor = GotOcr2ImageProcessorPil(size={"height": TILE, "width": TILE}, max_patches=4)
    tokens = tuple(INTERN_TOKENS.values())[:3]
    template = CHAT_TEMPLATE.replace(IMAGE_TOKEN, tokens[1] + "\n")
    image_token = _save_eyes(directory, processor, template, tokens)
    path = directory / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "extra_special_tokens": INTERN_TOKENS}))
    return image_token


def _save_eyes(directory: Path, processor: Any, template: str, tokens: tuple[str, ...]) -> int:
    directory.mkdir(parents=True, exist_ok=True)
    save_tokenizer(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    tokenizer.chat_template = template
    tokenizer.save_pretrained(directory)
    processor.save_pretrained(directory)
    return int(tokenizer.convert_tokens_to_ids(tokens[len(tokens) // 2]))


def load_reference(directory: Path, **options: Any) -> PreTrainedModel:
    """The model of transformers."""
    return AutoModelForImageTextToText.from_pretrained(
        directory, experts_implementation="eager", **options
    )


def reference_inputs(
    directory: Path, tokens: Sequence[int], pictures: Sequence[str], image_token: int
) -> dict[str, torch.Tensor]:
    """A row as transformers takes it, its images prepared by transformers alone, in float64."""
    ids = torch.tensor([[*tokens]])
    inputs = {"input_ids": ids}
    if pictures:
        processor = AutoImageProcessor.from_pretrained(directory, backend="pil")
        images = [Image.open(picture) for picture in pictures]
        is_tiled = isinstance(processor, GotOcr2ImageProcessorPil)
        options = {"crop_to_patches": True} if is_tiled else {}
        inputs |= processor(images=images, return_tensors="pt", **options)
        inputs.pop("num_patches", None)
        inputs["pixel_values"] = inputs["pixel_values"].double()
    if "image_grid_thw" in inputs:
        inputs["mm_token_type_ids"] = (ids == image_token).int()
    return inputs


SIZES = ((20, 14), (40, 18), (9, 33))
"""Width and height of pictures, of which Qwen2.5-VL makes 4, 10 and 4 tokens, and InternVL 1, 3 and
5 tiles."""


def save_image(path: Path, seed: int, size: tuple[int, int] = (20, 14)) -> Path:
    """A picture of noise, in the format that the name says."""
    noise = torch.Generator().manual_seed(seed)
    width, height = size
    pixels = torch.randint(0, 256, (height, width, 3), generator=noise, dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(path)
    return path


def save_seeing_rows(path: Path, num_rows: int = 8) -> Path:
    """Rows with no, one and two images, in parts and in a column, the images beside the file."""
    rows = []
    for number in range(num_rows):
        names = [str(path.with_name(f"{path.stem}-{number}-{i}.png")) for i in range(number % 3)]
        for i, name in enumerate(names):
            save_image(Path(name), 10 * number + i, SIZES[(number + i) % len(SIZES)])
        question = f"what is {number}?"
        if number % 2:
            images = {"images": names}
            content: object = IMAGE_TOKEN * len(names) + question
        else:
            images = {}
            parts = [{"type": "image", "image": name} for name in names]
            content = [*parts, {"type": "text", "text": question}]
        turns = [
            {"role": "user", "content": content},
            {"role": "assistant", "content": "the sky is blue and red"[: 4 + 2 * number]},
        ]
        rows.append(json.dumps({"messages": turns, **images}))
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path
