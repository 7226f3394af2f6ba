"""Images and image processors that come from strangers: read as transformers reads them, or named,
and never more memory than a plan allows."""

import io
import json
import resource
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image
from tiny_vision import (
    NUM_PIXELS,
    save_eyes,
    save_intern_eyes,
    save_internvl,
    save_qwen3_vl,
    save_qwen_eyes,
)
from transformers.image_utils import load_image

from gkdplan.diagnostics import UserError
from gkdplan.facts.config import read_shape
from gkdplan.facts.preparing import unfit_preparing
from gkdplan.pictures import Picture, PictureLimits
from gkdplan.runtime.vision.images import Eyes, Shown, load_eyes
from gkdplan.vision import ClipVision, VisionShape

NOISE = np.random.default_rng(0).integers(0, 256, (14, 20, 4), dtype=np.uint8)
GIB = 2**30


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, VisionShape]]:
    """A directory of an image processor, and a tower, of each way in which images are cut."""
    root = tmp_path_factory.mktemp("eyes")
    token = save_eyes(root / "clip")
    clip = ClipVision(16, 2, 2, 32, NUM_PIXELS, 4, "quick_gelu", 1e-5, 32, token, -2, False, True)
    homes: dict[str, tuple[Path, VisionShape]] = {"clip": (root / "clip", clip)}
    for name, save in (("intern", save_internvl), ("qwen", save_qwen3_vl)):
        save(root / name)
        shape, _ = read_shape(json.loads((root / name / "config.json").read_text()), "config")
        homes[name] = (root / name, shape.vision)
    return homes


def eyes_of(homes, name: str, limits: PictureLimits | None = None) -> Eyes:
    directory, shape = homes[name]
    return load_eyes(directory, shape, limits or PictureLimits())


def _saved(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


def _lying(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif.tobytes()


def _unusual(directory: Path) -> dict[str, Path]:
    colours, grey = Image.fromarray(NOISE[..., :3]), Image.fromarray(NOISE[..., 0])
    frames = [grey, Image.fromarray(NOISE[..., 1])]
    palette = colours.quantize(16)
    wide = Image.fromarray(NOISE[..., 0].astype(np.uint16) * 257)
    of_animation = {"save_all": True, "append_images": frames[1:]}
    return {
        "cmyk": _saved(directory / "cmyk.jpg", colours.convert("CMYK")),
        "grey": _saved(directory / "grey.png", grey),
        "grey and clear": _saved(directory / "la.png", Image.fromarray(NOISE).convert("LA")),
        "clear": _saved(directory / "rgba.png", Image.fromarray(NOISE)),
        "palette, partly clear": _saved(directory / "p.png", palette, transparency=3),
        "16 bits": _saved(directory / "wide.png", wide),
        "1 bit": _saved(directory / "bit.png", grey.convert("1")),
        "animated gif": _saved(directory / "a.gif", frames[0], **of_animation),
        "animated webp": _saved(directory / "a.webp", frames[0], **of_animation, lossless=True),
        "bmp": _saved(directory / "a.bmp", colours),
        **{
            f"orientation {number}": _saved(
                directory / f"{number}.jpg", colours, exif=_lying(number), quality=95
            )
            for number in range(1, 9)
        },
        "a png on its side": _saved(directory / "side.png", colours, exif=_lying(6)),
        "a webp on its side": _saved(
            directory / "side.webp", colours, exif=_lying(8), lossless=True
        ),
    }


@pytest.mark.parametrize("name", ["clip", "intern", "qwen"])
def test_unusual_images_are_read_as_transformers_reads_them(name, homes, tmp_path):
    """Their colours, the first of their frames, and which side is up."""
    eyes = eyes_of(homes, name)
    for what, path in _unusual(tmp_path).items():
        options = {"crop_to_patches": True} if name == "intern" else {}
        expected = eyes.processor(images=[load_image(str(path))], return_tensors="pt", **options)
        measured = eyes.measured(Shown(Picture(str(path)), "rows:1", "data.train[0]"))
        pixels, _ = eyes.pixels([measured])
        assert pixels.equal(expected["pixel_values"].float()), what
        if name == "qwen":
            assert measured.num_tokens * 4 == len(pixels), what


def _chunk(kind: bytes, content: bytes) -> bytes:
    """Of a PNG."""
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def _turned_behind_its_pixels(path: Path) -> Path:
    """A PNG whose EXIF data come after its pixels, where only decoding finds them."""
    stream = io.BytesIO()
    Image.new("RGB", (40, 16)).save(stream, "PNG")
    whole, end = stream.getvalue(), _chunk(b"IEND", b"")
    assert whole.endswith(end)
    path.write_bytes(whole.removesuffix(end) + _chunk(b"eXIf", _lying(6)[6:]) + end)
    return path


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    """Files that nothing is to be made of, with words of why, or no words where something may."""
    directory = tmp_path_factory.mktemp("hostile")
    good = io.BytesIO()
    Image.fromarray(NOISE[..., :3]).save(good, "JPEG", exif=_lying(6))
    jpeg = good.getvalue()
    place = jpeg.index(b"Exif\0\0") + 6
    files = {
        "cut.jpg": (jpeg[:-200], "cannot be decoded"),
        "tail.gif": (b"GIF89a" + bytes(40), "cannot be decoded"),
        "empty.bmp": (b"BM" + bytes(60), "cannot be decoded"),
        "half.webp": (b"RIFF\x24\0\0\0WEBPVP8 " + bytes(12), "cannot be decoded"),
        "text.png": (b"\x89PNG\r\n\x1a\n" + b"?" * 80, "cannot be decoded"),
        "other.png": (b"<svg/>" + bytes(40), "is none of"),
        "exif.jpg": (jpeg[:place] + b"MM\0\x2a\xff\xff\xff\xff" + jpeg[place + 8 :], ""),
    }
    for name, (content, _) in files.items():
        (directory / name).write_bytes(content)
    found = {name: (directory / name, words) for name, (_, words) in files.items()}
    Image.new("1", (10_000, 10_000)).save(directory / "bomb.png")
    found["bomb.png"] = (directory / "bomb.png", "10,000 x 10,000 pixels")
    Image.new("P", (8_000, 8_000)).save(directory / "bomb.gif")
    found["bomb.gif"] = (directory / "bomb.gif", "8,000 x 8,000 pixels")
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    larger = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(b""))
    (directory / "larger.png").write_bytes(larger)
    found["larger.png"] = (directory / "larger.png", "cannot be decoded")
    return found


@pytest.mark.parametrize("name", ["clip", "intern", "qwen"])
def test_hostile_images_are_named_by_row_or_shown(name, homes, hostile):
    eyes = eyes_of(homes, name)
    for what, (path, words) in hostile.items():
        shown = Shown(Picture(str(path)), "rows:9", "data.train[0]")
        if not words:
            assert len(eyes.pixels([eyes.measured(shown)])[0]), what
            continue
        found = _refused(eyes, shown)
        assert words in found, (what, found)


def test_a_line_of_pixels_is_not_enlarged_without_bound(homes, tmp_path):
    """CLIP's processor keeps an image's proportions until it cuts a tile out of it: here 12 rows
    of sixty million pixels."""
    Image.new("1", (5_000_000, 1)).save(tmp_path / "line.png")
    shown = Shown(Picture(str(tmp_path / "line.png")), "rows:9", "data.train[0]")
    found = _refused(eyes_of(homes, "clip"), shown)
    assert "it would make 720,000,000 pixels of it" in found


def test_an_image_that_is_turned_behind_its_pixels_is_named(homes, tmp_path):
    path = _turned_behind_its_pixels(tmp_path / "late.png")
    assert load_image(str(path)).size == (16, 40)
    shown = Shown(Picture(str(path)), "rows:9", "data.train[0]")
    assert "changed since the run began" in _refused(eyes_of(homes, "qwen"), shown)


def _refused(eyes: Eyes, shown: Shown) -> str:
    with pytest.raises(UserError) as refusal:
        eyes.pixels([eyes.measured(shown)])
    (found,) = refusal.value.diagnostics
    assert (found.code, found.path) == ("GK485", "data.train[0]")
    assert "rows:9" in found.message
    return found.message


OF_TILES = [
    ({"size": {"height": 10**9, "width": 10**9}}, "`size` is 1000000000"),
    ({"size": {"height": 0, "width": 16}}, "`size` is 0"),
    ({"size": {"height": -16, "width": 16}}, "`size` is -16"),
    ({"size": {"height": "16", "width": 16}}, "`size` is '16'"),
    ({"size": {"height": 16.5, "width": 16}}, "`size` is 16.5"),
    ({"size": True}, "`size` is True"),
]
OF_COLOURS = [
    ({"rescale_factor": "1e300"}, "`rescale_factor` is '1e300'"),
    ({"image_std": [0.0, 1.0, 1.0]}, "and divides"),
    ({"image_std": [1.0, 1.0]}, "one for each of three colours"),
    ({"image_mean": ["a", "b", "c"]}, "one for each of three colours"),
    ({"image_mean": [0.5] * 10**5}, "one for each of three colours"),
]
CASES = [
    *(("intern", *case) for case in OF_TILES),
    ("intern", {"max_patches": 10**9}, "`max_patches` is 1000000000"),
    ("intern", {"max_patches": -1}, "`max_patches` is -1"),
    ("intern", {"max_patches": "many"}, "`max_patches` is 'many'"),
    ("intern", {"min_patches": 10**12}, "`min_patches`"),
    ("clip", {"size": {"shortest_edge": 10**9}}, "`size` is 1000000000"),
    ("clip", {"size": {"shortest_edge": 0}}, "`size` is 0"),
    ("clip", {"crop_size": {"height": 10**9, "width": 10**9}}, "`crop_size` is 1000000000"),
    *(("clip", *case) for case in OF_COLOURS),
    ("qwen", {"size": {"shortest_edge": -1, "longest_edge": 16}}, "`size` is -1"),
    ("qwen", {"size": {"shortest_edge": 10**18, "longest_edge": 10**18}}, "`size` is 1000"),
    ("qwen", {"min_pixels": "0"}, "`min_pixels` is '0'"),
    ("qwen", {"max_pixels": 0}, "`max_pixels` is 0"),
]


@pytest.mark.parametrize(("name", "change", "words"), CASES)
def test_hostile_settings_are_named_before_an_image_is_made(name, change, words, homes, tmp_path):
    """When a plan is checked, and when a run opens them."""
    directory, shape = _changed(homes, name, change, tmp_path)
    (found,) = unfit_preparing(str(directory), shape, "model")
    assert (found.code, found.path) == ("GK488", "model")
    assert words in found.notes[0]
    with _LittleMemory(), pytest.raises(UserError) as refusal:
        load_eyes(directory, shape, PictureLimits())
    assert [d.code for d in refusal.value.diagnostics] == ["GK488"]


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("intern", {"image_processor_type": "ViTImageProcessor"}, "it is a ViTImageProcessorPil"),
        ("intern", {"min_patches": 1000, "max_patches": 1024}, None),
        ("qwen", {"size": {"shortest_edge": 2**32, "longest_edge": 2**32}}, "pixels of an image"),
        ("qwen", {"patch_size": 0}, "its `patch_size` is 0"),
        ("clip", {"size": {"shortest_edge": 4096}}, "pixels of an image of 40 x 30"),
    ],
)
def test_what_a_processor_makes_of_a_small_image_is_bounded(name, change, words, homes, tmp_path):
    directory, shape = _changed(homes, name, change, tmp_path)
    limits = PictureLimits(num_pixels=10**6)
    with _LittleMemory():
        if words is None:
            load_eyes(directory, shape, limits)
            return
        with pytest.raises(UserError) as refusal:
            load_eyes(directory, shape, limits)
    (found,) = refusal.value.diagnostics
    assert found.code == "GK488"
    assert words in found.notes[0]


def test_settings_that_were_published_are_taken(homes):
    for directory, shape in homes.values():
        assert unfit_preparing(str(directory), shape, "model") == ()
        load_eyes(directory, shape, PictureLimits())


def test_a_file_of_settings_that_is_none_is_named(homes, tmp_path):
    _, shape = homes["clip"]
    for text, words in (
        ("[]", "does not hold a JSON object"),
        ('{"a":' * 9**5, "nested too deeply"),
    ):
        (tmp_path / "preprocessor_config.json").write_text(text)
        (found,) = unfit_preparing(str(tmp_path), shape, "model")
        assert words in found.notes[0]
    (tmp_path / "preprocessor_config.json").unlink()
    inner = {"image_processor": {"size": {"shortest_edge": 0}}}
    (tmp_path / "processor_config.json").write_text(json.dumps(inner))
    (found,) = unfit_preparing(str(tmp_path), shape, "model")
    assert "processor_config.json" in found.message


def _changed(homes, name: str, change: dict, tmp_path: Path) -> tuple[Path, VisionShape]:
    save = {"clip": save_eyes, "intern": save_intern_eyes, "qwen": save_qwen_eyes}[name]
    save(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    return tmp_path, homes[name][1]


class _LittleMemory:
    """While entered this process may have 2 GiB more than it has, so that a bomb is an error."""

    def __enter__(self) -> None:
        self._before = resource.getrlimit(resource.RLIMIT_AS)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + 2 * GIB, self._before[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_AS, self._before)
