"""HTML that is escaped unless it was built here."""

from collections.abc import Iterable
from html import escape

_VOID = {"meta", "path", "line", "rect"}
_Attribute = str | int | float | None


class Markup(str):
    """Text that is HTML already; any other text is escaped where it enters an element."""

    __slots__ = ()


def tag(name: str, /, *children: str, **attributes: _Attribute) -> Markup:
    """One element: `tag("td", text, class_="figure")`.

    A trailing underscore of an attribute's name falls away, others become hyphens; an attribute
    that is None is left out.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{written} />")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def join(children: Iterable[str]) -> Markup:
    """The children one after another, those that are not markup escaped."""
    return Markup("".join(c if isinstance(c, Markup) else escape(c) for c in children))


def section(title: str, caption: str, *content: Markup) -> Markup:
    """A titled part of the page."""
    heading = tag("h2", title, tag("small", caption)) if caption else tag("h2", title)
    return tag("section", heading, *content)
