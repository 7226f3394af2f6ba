"""What InternVL makes of a row with images: tiles by its proportions, tokens between two marks."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from tiny_vision import INTERN_TOKENS, SIZES, load_reference, save_image, save_internvl
from transformers import AutoImageProcessor, AutoTokenizer, InternVLProcessor

from gkdplan.diagnostics import UserError
from gkdplan.facts.config import read_shape
from gkdplan.pictures import Picture, PictureLimits
from gkdplan.runtime.data.chat import load_chat
from gkdplan.runtime.data.rows import TurnsRow
from gkdplan.runtime.data.tokenise import tokenise
from gkdplan.runtime.vision.images import Eyes, Shown, load_eyes
from gkdplan.runtime.vision.pixels import Pixels
from gkdplan.runtime.vision.tower import build_tower

IMAGE, TEXT = {"type": "image"}, {"type": "text", "text": "what is it?"}
TOKENS_PER_TILE = 4


@pytest.fixture
def home(tmp_path: Path) -> Path:
    save_internvl(tmp_path)
    for number, size in enumerate(SIZES):
        save_image(tmp_path / f"{number}.png", number, size)
    return tmp_path


def eyes_of(home: Path) -> Eyes:
    shape, findings = read_shape(json.loads((home / "config.json").read_text()), "config.json")
    assert shape is not None, findings
    return load_eyes(home, shape.vision, PictureLimits())


def test_tokens_are_those_that_the_processor_of_transformers_writes(home):
    """One tile, or several and a thumbnail; each image between its marks."""
    parts, names = [TEXT, IMAGE, IMAGE, TEXT, IMAGE], [f"{number}.png" for number in (1, 0, 2)]
    pictures = tuple(Picture(str(home / name)) for name in names)
    turns = ({"role": "user", "content": parts},)
    answer = {"role": "assistant", "content": "the sky"}
    chat = load_chat(home, eyes_of(home))
    row = tokenise(TurnsRow("rows:7", turns, answer, pictures), chat, "data.train[0]")
    images = [Image.open(home / name) for name in names]
    processor = AutoImageProcessor.from_pretrained(home, backend="pil")
    made = processor(images=images, return_tensors="pt", crop_to_patches=True)
    assert made["num_patches"].tolist() == [3, 1, 5]
    writer = SimpleNamespace(
        start_image_token="<img>",
        image_token="<IMG_CONTEXT>",
        end_image_token="</img>",
        image_seq_length=TOKENS_PER_TILE,
    )
    tokenizer = AutoTokenizer.from_pretrained(home)
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    first, *rest = text.split("<IMG_CONTEXT>")
    for number, part in enumerate(rest):
        first += InternVLProcessor.replace_image_token(writer, made, number) + part
    assert list(row.prompt) == tokenizer(first, add_special_tokens=False)["input_ids"]
    assert [one.num_tokens for one in row.shown] == [3 * 4, 4, 5 * 4]
    assert torch.equal(eyes_of(home).pixels(row.shown)[0], made["pixel_values"].float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_are_those_of_transformers_to_the_bit(home, dtype):
    eyes = eyes_of(home)
    shown = [eyes.measured(Shown(Picture(str(home / f"{n}.png")), "rows:7", "")) for n in range(3)]
    values, grids = eyes.pixels(shown)
    assert grids is None
    reference = load_reference(home, dtype=dtype).model
    tower = build_tower(eyes.shape, dtype)
    for part in ("vision_tower", "multi_modal_projector"):
        getattr(tower, part).load_state_dict(getattr(reference, part).state_dict())
    nowhere = torch.zeros(0, dtype=torch.int64)
    with torch.no_grad():
        expected = reference.get_image_features(values).pooler_output
        (found,) = tower(Pixels(values, nowhere, nowhere))
    assert found.dtype is dtype
    assert torch.equal(found, expected.flatten(0, 1))


@pytest.mark.parametrize("name", ["start_image_token", "end_image_token"])
def test_a_tokenizer_without_marks_is_refused(home, name):
    path = home / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    kept = {key: token for key, token in INTERN_TOKENS.items() if key != name}
    path.write_text(json.dumps({**settings, "extra_special_tokens": kept}))
    with pytest.raises(UserError) as refusal:
        load_chat(home, eyes_of(home))
    (found,) = refusal.value.diagnostics
    assert found.code == "GK487"
    assert "marks" in found.message


def test_a_processor_of_tiles_of_another_size_is_refused(home):
    vision = replace(eyes_of(home).shape, image_size=24)
    with pytest.raises(UserError) as refusal:
        load_eyes(home, vision, PictureLimits())
    (found,) = refusal.value.diagnostics
    assert found.code == "GK488"
    assert "16, 16" in found.notes[0]
