"""Rows with images as tokens, and images as what a tower takes."""

from pathlib import Path

import pytest
from PIL import Image
from tiny_vision import NUM_PIXELS, TOKENS_PER_IMAGE, save_eyes, save_image

from gkdplan.diagnostics import UserError
from gkdplan.pictures import USUAL_LIMITS, Picture, PictureLimits
from gkdplan.runtime.data.chat import load_chat
from gkdplan.runtime.data.rows import TurnsRow
from gkdplan.runtime.data.tokenise import tokenise
from gkdplan.runtime.vision.images import Shown, load_eyes, require_alike
from gkdplan.vision import ClipVision

ANSWER = {"role": "assistant", "content": "the sky"}
IMAGE, TEXT = {"type": "image"}, {"type": "text", "text": "what is it?"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("eyes")
    save_eyes(home)
    save_image(home / "a.png", 1)
    save_image(home / "b.jpg", 2)
    return home


def vision(home: Path, image_size: int = NUM_PIXELS) -> ClipVision:
    return ClipVision(
        16, 2, 2, 32, image_size, 4, "quick_gelu", 1e-5, 32, save_eyes(home), -2, False, True
    )


def chat_of(home: Path, limits: PictureLimits = USUAL_LIMITS):
    return load_chat(home, load_eyes(home, vision(home), limits))


def shown(home: Path, *names: str) -> tuple[Picture, ...]:
    return tuple(Picture(str(home / name)) for name in names)


def test_an_image_token_stands_once_for_each_feature(home):
    chat = chat_of(home)
    turns = ({"role": "user", "content": [IMAGE, TEXT, IMAGE]},)
    row = tokenise(TurnsRow("rows:1", turns, ANSWER, shown(home, "a.png", "b.jpg")), chat, "key")
    token = chat.eyes.shape.image_token_id
    assert row.prompt.count(token) == 2 * TOKENS_PER_IMAGE
    first = row.prompt.index(token)
    assert row.prompt[first : first + TOKENS_PER_IMAGE] == (token,) * TOKENS_PER_IMAGE
    short = [t for i, t in enumerate(row.prompt) if t != token or row.prompt[i - 1] != token]
    assert chat.decode(short, special=True) == (
        "<|im_start|>user\n<image>what is it?<image><|im_end|>\n<|im_start|>assistant\n"
    )
    assert chat.decode(row.response, special=True) == "the sky<|im_end|>"
    assert row.question == "what is it?"
    assert [one.picture.path for one in row.shown] == [str(home / n) for n in ("a.png", "b.jpg")]


def test_a_row_of_text_is_rendered_in_parts_too(home):
    chat = chat_of(home)
    row = tokenise(TurnsRow("rows:1", ({"role": "user", "content": "say"},), ANSWER), chat, "key")
    assert chat.decode(row.prompt) == "user\nsay\nassistant\n"


def test_the_image_token_in_a_text_is_refused(home):
    for turns, answer in (
        (({"role": "user", "content": "an <image> of what?"},), ANSWER),
        (({"role": "user", "content": "say"},), {"role": "assistant", "content": "an <image>"}),
    ):
        _refused("GK487", TurnsRow("rows:7", turns, answer), chat_of(home))


def test_images_for_a_text_model_are_refused(home):
    turns = ({"role": "user", "content": [TEXT, IMAGE]},)
    chat = load_chat(home)
    found = _refused("GK486", TurnsRow("rows:7", turns, None, shown(home, "a.png")), chat)
    assert "sees none" in found


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (PictureLimits(num_pixels=279), "of 20 x 14 pixels, and `data.max_image_pixels` is 279"),
        (PictureLimits(number=1), "shows 2 images, and at most 1 are planned for"),
        (PictureLimits(num_bytes=10), "`data.max_image_bytes` is 10 B"),
    ],
)
def test_more_than_the_plan_allows_is_refused(home, limits, reason):
    turns = ({"role": "user", "content": [IMAGE, IMAGE]},)
    row = TurnsRow("rows:7", turns, None, shown(home, "a.png", "a.png"))
    assert reason in _refused("GK485", row, chat_of(home, limits))


def test_a_header_that_promises_a_huge_image_is_refused_before_it_is_decoded(home):
    """A hundred million pixels in a few kilobytes."""
    Image.new("1", (10_000, 10_000)).save(home / "bomb.png")
    assert (home / "bomb.png").stat().st_size < 20_000
    turns = ({"role": "user", "content": [IMAGE]},)
    row = TurnsRow("rows:7", turns, None, shown(home, "bomb.png"))
    assert "10,000 x 10,000 pixels" in _refused("GK485", row, chat_of(home))


def test_an_image_that_cannot_be_decoded_is_named(home):
    whole = (home / "a.png").read_bytes()
    eyes = load_eyes(home, vision(home), PictureLimits())
    for content in (whole[:100], b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff" + bytes(50)):
        (home / "half.png").write_bytes(content)
        picture = Picture(str(home / "half.png"))
        shown = Shown(picture, "rows:9", "data.train[0]", (1, TOKENS_PER_IMAGE))
        with pytest.raises(UserError) as refusal:
            eyes.pixels([shown])
        (found,) = refusal.value.diagnostics
        assert (found.code, found.path) == ("GK485", "data.train[0]")
        assert "rows:9" in found.message
        assert "cannot be decoded" in found.message


def test_a_processor_of_another_size_is_refused(home):
    with pytest.raises(UserError) as refusal:
        load_eyes(home, vision(home, image_size=16), PictureLimits())
    assert [d.code for d in refusal.value.diagnostics] == ["GK488"]


def test_processors_that_differ_are_refused_with_their_difference(home, tmp_path):
    save_eyes(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(file.read_text().replace('"rescale_factor": 0.00', '"rescale_factor": 0.01'))
    eyes, others = (load_eyes(d, vision(home), PictureLimits()) for d in (home, tmp_path))
    require_alike(eyes, eyes)
    with pytest.raises(UserError) as refusal:
        require_alike(eyes, others)
    (found,) = refusal.value.diagnostics
    assert found.code == "GK131"
    assert "rescale_factor" in found.notes[0]


def test_a_template_that_takes_no_parts_is_refused(home, tmp_path):
    save_eyes(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(
        "{% for message in messages %}{{ message.content }}{% endfor %}"
    )
    eyes = load_eyes(home, vision(home), PictureLimits())
    with pytest.raises(UserError) as refusal:
        load_chat(tmp_path, eyes)
    assert [d.code for d in refusal.value.diagnostics] == ["GK487"]


def _refused(code: str, row: TurnsRow, chat) -> str:
    with pytest.raises(UserError) as refusal:
        tokenise(row, chat, "data.train[0]")
    (found,) = refusal.value.diagnostics
    assert found.code == code
    assert "rows:7" in found.message
    return found.message
