"""What Qwen's models make of a row with images: tokens by their size, and positions."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_vision import SIZES, load_reference, save_image, save_qwen3_vl, save_qwen_vl
from transformers import AutoImageProcessor

from gkdplan.diagnostics import UserError
from gkdplan.facts.config import read_shape
from gkdplan.pictures import Picture, PictureLimits
from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runtime.data.batch import Row, collate, row_share
from gkdplan.runtime.data.chat import load_chat
from gkdplan.runtime.data.rows import TurnsRow
from gkdplan.runtime.data.tokenise import TokenisedRow, tokenise
from gkdplan.runtime.vision.images import Eyes, Shown, load_eyes
from gkdplan.runtime.vision.pixels import Pixels
from gkdplan.runtime.vision.positions import positions_of
from gkdplan.runtime.vision.tower import build_tower

IMAGE, TEXT = {"type": "image"}, {"type": "text", "text": "what is it?"}


@pytest.fixture(scope="module", params=[save_qwen_vl, save_qwen3_vl])
def home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = request.param(tmp_path_factory.mktemp("qwen"))
    for number, size in enumerate(SIZES):
        save_image(home / f"{number}.png", number, size)
    return home


def eyes_of(home: Path) -> Eyes:
    shape, findings = read_shape(json.loads((home / "config.json").read_text()), "config.json")
    assert shape is not None, findings
    return load_eyes(home, shape.vision, PictureLimits())


def tokenised(home: Path, parts: list[dict[str, str]], *names: str) -> TokenisedRow:
    pictures = tuple(Picture(str(home / name)) for name in names)
    answer = {"role": "assistant", "content": "the sky"}
    row = TurnsRow("rows:7", ({"role": "user", "content": parts},), answer, pictures)
    return tokenise(row, load_chat(home, eyes_of(home)), "data.train[0]")


ROWS = {
    "images first": ([IMAGE, IMAGE, TEXT], "1.png", "2.png"),
    "an image between texts": ([TEXT, IMAGE, TEXT], "0.png"),
    "three": ([IMAGE, TEXT, IMAGE, IMAGE], "2.png", "1.png", "0.png"),
}


@pytest.mark.parametrize("name", ROWS)
def test_tokens_and_positions_are_those_of_transformers(home, name):
    parts, *names = ROWS[name]
    row = tokenised(home, parts, *names)
    processor = AutoImageProcessor.from_pretrained(home, backend="pil")
    images = [Image.open(home / one) for one in names]
    grids = processor(images=images, return_tensors="pt")["image_grid_thw"]
    assert [(1, 2 * rows, 2 * columns) for rows, columns in (one.grid for one in row.shown)] == [
        tuple(grid.tolist()) for grid in grids
    ]
    eyes = eyes_of(home)
    assert row.prompt.count(eyes.shape.image_token_id) == sum(one.num_tokens for one in row.shown)
    tokens = torch.tensor([[*row.prompt, *row.response]])
    is_image = (tokens == eyes.shape.image_token_id).int()
    expected, delta = load_reference(home).model.get_rope_index(tokens, is_image, grids)
    found = positions_of(row.prompt, row.shown, eyes.shape.image_token_id, len(row.response))
    assert torch.equal(found, expected[:, 0])
    assert int(found.max()) + 1 - tokens.size(1) == int(delta)


def test_ranks_of_the_context_axis_share_positions_as_they_share_tokens(home):
    long = tokenised(home, [IMAGE, IMAGE, TEXT], "1.png", "2.png")
    text = tokenised(home, [TEXT])
    rows = [Row(one.prompt, one.response, one.shown) for one in (text, long)]
    eyes = eyes_of(home)
    whole = collate(rows, 0, eyes=eyes)
    degrees = AxisDegrees(tensor=1, sequence=False, data=1, context=2)
    width = whole.tokens_BS.size(1)
    for rank in range(2):
        share = row_share(degrees, rank)
        mine = collate(rows, 0, share, eyes=eyes.closed)
        assert mine.sight.pixels is None
        for here, place in enumerate(share.places(width)):
            if place < width:
                expected = whole.sight.positions_3BS[..., place]
                assert torch.equal(mine.sight.positions_3BS[..., here], expected)
    of_text = whole.sight.positions_3BS[:, 0, : len(text.prompt)]
    assert torch.equal(of_text, torch.arange(len(text.prompt)).expand(3, -1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_are_those_of_transformers_to_the_bit(home, dtype):
    eyes = eyes_of(home)
    shown = [eyes.measured(Shown(Picture(str(home / f"{n}.png")), "rows:7", "")) for n in range(3)]
    values, grids_I3 = eyes.pixels(shown)
    reference = load_reference(home, dtype=dtype).model
    tower = build_tower(eyes.shape, dtype)
    tower.visual.load_state_dict(reference.visual.state_dict())
    nowhere = torch.zeros(0, dtype=torch.int64)
    with torch.no_grad():
        expected = reference.get_image_features(values, grids_I3)
        first, *deep = tower(Pixels(values, nowhere, nowhere, grids_I3))
    assert first.dtype is dtype
    assert torch.equal(first, torch.cat(expected.pooler_output))
    for found, of_images in zip(deep, getattr(expected, "deepstack_features", ()), strict=True):
        assert torch.equal(found, torch.cat(of_images))


def test_an_image_that_is_a_line_is_refused_with_its_row(home):
    save_image(home / "line.png", 1, (1, 300))
    with pytest.raises(UserError) as refusal:
        tokenised(home, [IMAGE, TEXT], "line.png")
    (found,) = refusal.value.diagnostics
    assert found.code == "GK485"
    assert "rows:7" in found.message
    assert "1 x 300 pixels" in found.message


def test_an_image_of_another_size_than_when_it_was_measured_is_refused(home):
    save_image(home / "other.png", 1, (40, 18))
    eyes = eyes_of(home)
    shown = eyes.measured(Shown(Picture(str(home / "other.png")), "rows:7", "data.train[0]"))
    assert eyes.pixels([shown])[1].tolist() == [[1, 4, 10]]
    save_image(home / "other.png", 1, (18, 40))
    with pytest.raises(UserError) as refusal:
        eyes.pixels([shown])
    (found,) = refusal.value.diagnostics
    assert found.code == "GK485"
    assert "changed since the run began" in found.message


@pytest.mark.parametrize(
    "changes", [{"merge_size": 1}, {"patch_size": 8}, {"temporal_patch_size": 1}]
)
def test_a_processor_of_another_cut_is_refused(home, changes):
    vision = replace(eyes_of(home).shape, **changes)
    with pytest.raises(UserError) as refusal:
        load_eyes(home, vision, PictureLimits())
    (found,) = refusal.value.diagnostics
    assert found.code == "GK488"
    assert next(iter(changes)) in found.notes[0]
