"""Tiny vision-language checkpoints with tokenizer and image processor, and real images."""

import json
from pathlib import Path

import torch
from PIL import Image
from tiny import save_tokenizer
from tokenizers import AddedToken
from transformers import (
    AutoTokenizer,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
IMAGE_TOKEN = "<image>"
NUM_PIXELS = 12
PATCH = 4
TOKENS_PER_IMAGE = (NUM_PIXELS // PATCH) ** 2


def save_llava(
    directory: Path,
    *,
    num_layers: int = 2,
    hidden: int = 32,
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
        intermediate_size=48,
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
    model = LlavaForConditionalGeneration(config).float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_(centre + 0.15 * torch.randn_like(parameter))
    model.save_pretrained(directory)
    return directory


def save_eyes(directory: Path) -> int:
    """The tokenizer with its image token, whose id is given, and the image processor."""
    directory.mkdir(parents=True, exist_ok=True)
    save_tokenizer(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.add_tokens([AddedToken(IMAGE_TOKEN, special=True, normalized=False)])
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(directory)
    size = {"height": NUM_PIXELS, "width": NUM_PIXELS}
    processor = CLIPImageProcessorPil(size={"shortest_edge": NUM_PIXELS}, crop_size=size)
    processor.save_pretrained(directory)
    return int(tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))


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
            save_image(Path(name), seed=10 * number + i)
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
