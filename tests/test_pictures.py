"""What a row shows: where its pictures stand, and which cannot be used."""

import base64
from dataclasses import replace
from hashlib import sha256

import pytest

from gkdplan.contents import contents_of, pictures_of, text_of
from gkdplan.pictures import NotFetchedError, Picture, PictureError, PictureLimits
from gkdplan.turns import fault_of

PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)
TEXT = {"type": "text", "text": "what is it?"}


def row(content, **others):
    answer = {"role": "assistant", "content": "a <image> of words"}
    return {"messages": [{"role": "user", "content": content}, answer], **others}


def test_parts_name_their_own_pictures():
    encoded = base64.b64encode(PNG).decode()
    parts = [
        {"type": "image", "image": "a.png"},
        TEXT,
        {"type": "image", "path": "b.png"},
        {"type": "image", "base64": encoded},
        {"type": "image", "image": f"data:image/png;base64,{encoded}"},
        {"type": "image", "url": "HTTPS://Host/a.png"},
    ]
    contents = contents_of(row(parts))
    inline, far = Picture(base64=encoded), Picture(address="HTTPS://Host/a.png")
    assert pictures_of(contents) == (Picture("a.png"), Picture("b.png"), inline, inline, far)
    assert text_of(contents[0]) == "what is it?"
    assert inline.read(PictureLimits()) == PNG


def test_marks_and_parts_without_a_source_take_the_next_of_the_column():
    by_mark = contents_of(row("<image>left,<image> right", images=["a.png", {"path": "b.png"}]))
    assert by_mark[0] == ("", Picture("a.png"), "left,", Picture("b.png"), " right")
    by_part = contents_of(row([{"type": "image"}, TEXT], images=["a.png"]))
    assert by_part[0] == (Picture("a.png"), "what is it?")


def test_a_mark_is_a_word_in_an_answer_and_where_there_is_no_column():
    assert contents_of(row("<image>?")) == [("<image>?",), ("a <image> of words",)]
    assert contents_of(row("<image>?", images=["a.png"]))[1] == ("a <image> of words",)


FAULTS = {
    "too few": (row("<image><image>", images=["a.png"]), "more images than the 1 of its `images`"),
    "too many": (row("hi", images=["a.png"]), "has 1 `images`, and its turns show 0 of them"),
    "no list": (row("hi", images="a.png"), "no list as its `images`"),
    "nameless": (row([{"type": "image"}]), "names no path, address or data URL"),
    "number": (row([{"type": "image", "image": 3}]), "names no path, address or data URL"),
    "unknown part": (row([{"type": "video", "video": "a.mp4"}]), "neither text nor a list"),
    "no part": (row(["a.png"]), "neither text nor a list"),
    "no base64": (row([{"type": "image", "image": "data:image/png,abc"}]), "is not base64"),
    "drawn answer": (
        {
            "messages": [
                {"role": "user", "content": "draw"},
                {"role": "assistant", "content": [{"type": "image", "image": "a.png"}]},
            ]
        },
        "an image in a turn of the assistant",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_row_that_shows_something_else_is_named_so(fault):
    seen, reason = FAULTS[fault]
    assert reason in (fault_of(seen) or "")


@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        (Picture("gone.png"), "cannot be read: no such file"),
        (Picture("."), "which is no file"),
        (Picture("/dev/zero"), "which is no file"),
        (Picture("a\0b"), "cannot be read"),
        (Picture("s3://host/a.png"), "addresses are of http or https"),
        (Picture(address="https://host/a.png"), "`data.image_hosts` does not name `host`"),
        (Picture(address="https://me:pw@host/"), "`https://...@host/`, which names a user before"),
        (Picture("large.png"), "`data.max_image_bytes` is 64 B"),
        (Picture("page.png"), "which is none of PNG, JPEG"),
        (Picture(base64="!!"), "that is no base64"),
        (Picture(base64="A" * 400), "`data.max_image_bytes` is 64 B"),
        (Picture(base64="AAAA"), "which is none of PNG, JPEG"),
    ],
)
def test_a_picture_that_cannot_be_used_says_why(picture, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "large.png").write_bytes(PNG + bytes(100))
    (tmp_path / "page.png").write_bytes(b"<html>")
    for look in (picture.check, picture.read):
        with pytest.raises(PictureError, match="has ") as failure:
            look(PictureLimits(num_bytes=64))
        assert reason in str(failure.value)


def test_a_picture_within_the_limits_is_read_whole(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    picture = Picture(str(tmp_path / "a.png"))
    picture.check(PictureLimits(num_bytes=len(PNG)))
    assert picture.read(PictureLimits(num_bytes=len(PNG))) == PNG


def test_what_an_address_gave_is_read_from_its_copy_alone(tmp_path):
    limits = PictureLimits(hosts=("host:8000",))
    far = Picture(address="http://host:8000/a.png")
    far.check(limits)
    with pytest.raises(NotFetchedError, match="was not fetched"):
        far.read(limits)
    (tmp_path / "copy").write_bytes(PNG)
    copied = replace(far, path=str(tmp_path / "copy"), sha256=sha256(PNG).hexdigest())
    assert copied.read(limits) == PNG
    assert copied.name == "the image `http://host:8000/a.png`"
    with pytest.raises(PictureError, match="does not name `host:8000`"):
        copied.read(PictureLimits(hosts=("host",)))
    (tmp_path / "copy").write_bytes(PNG + b"x")
    with pytest.raises(PictureError, match="has changed"):
        copied.read(limits)
