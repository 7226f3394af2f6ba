"""What the turns of a row of `messages` are made of: texts, and pictures where they stand."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from gkdplan.addresses import is_address
from gkdplan.pictures import Picture, PictureError

MARK = "<image>"
"""What stands in a text for the next picture of the row's `images`."""
_DATA_URL = "data:image/"
_SOURCES = ("image", "path", "url", "base64")

Part = str | Picture
"""Of a turn: text, or a picture."""


@dataclass(slots=True)
class _Column:
    """The pictures of a row's `images` that no turn has shown yet."""

    left: list[Picture]
    num_pictures: int = field(init=False)

    def __post_init__(self) -> None:
        self.num_pictures = len(self.left)

    def next(self) -> Picture:
        if not self.left:
            raise PictureError(f"shows more images than the {self.num_pictures} of its `images`")
        return self.left.pop(0)


def contents_of(row: Mapping[str, object]) -> list[tuple[Part, ...]]:
    """What each turn of the row's `messages` is made of, in order.

    A content is text, or a list of {"type": "text", "text"} and {"type": "image", "image"}: a path,
    an address, or a data URL; "path", "url" and "base64" may stand for "image". An image without
    any of them, and in rows with `images` each `<image>` in a text of user or system, is the next
    of `images`.

    Raises PictureError where a content is neither, or `images` are not as many as the turns show.
    """
    named = row.get("images")
    column = None if named is None else _Column([*_listed(named)])
    turns = row["messages"]
    assert isinstance(turns, list)
    contents = [tuple(_parts(turn, column)) for turn in turns]
    if column is not None and column.left:
        num_shown = column.num_pictures - len(column.left)
        raise PictureError(
            f"has {column.num_pictures} `images`, and its turns show {num_shown} of them"
        )
    return contents


def pictures_of(contents: list[tuple[Part, ...]]) -> tuple[Picture, ...]:
    """In the order in which the turns show them."""
    return tuple(part for parts in contents for part in parts if isinstance(part, Picture))


def text_of(parts: tuple[Part, ...]) -> str:
    """The words alone."""
    return "".join(part for part in parts if isinstance(part, str))


def _listed(images: object) -> Iterator[Picture]:
    if not isinstance(images, list):
        raise PictureError("has no list as its `images`")
    for image in images:
        yield _picture(image if isinstance(image, dict) else {"image": image})


def _parts(turn: Mapping[str, object], column: _Column | None) -> Iterator[Part]:
    content, is_answer = turn["content"], turn["role"] == "assistant"
    for part in content if isinstance(content, list) else [{"type": "text", "text": content}]:
        match part:
            case {"type": "text", "text": str(text)} if column is not None and not is_answer:
                yield from _with_marks(text, column)
            case {"type": "text", "text": str(text)}:
                yield text
            case {"type": "image"} if is_answer:
                raise PictureError("has an image in a turn of the assistant, which only writes")
            case {"type": "image"} if column is not None and not any(k in part for k in _SOURCES):
                yield column.next()
            case {"type": "image"}:
                yield _picture(part)
            case _:
                raise PictureError(
                    'has a content that is neither text nor a list of {"type": "text", "text"} and '
                    '{"type": "image", "image"}'
                )


def _with_marks(text: str, column: _Column) -> Iterator[Part]:
    first, *others = text.split(MARK)
    yield first
    for other in others:
        yield column.next()
        yield other


def _picture(image: Mapping[str, object]) -> Picture:
    """Raises PictureError where it names none, or a thing that is not text."""
    source = next((key for key in _SOURCES if isinstance(image.get(key), str)), None)
    if source is None:
        raise PictureError("has an image that names no path, address or data URL")
    value = str(image[source])
    if source == "base64":
        return Picture(base64=value)
    if value.startswith(_DATA_URL):
        header, comma, content = value.partition(",")
        if not comma or not header.endswith(";base64"):
            raise PictureError("has a data URL that is not base64")
        return Picture(base64=content)
    return Picture(address=value) if is_address(value) else Picture(path=value)
