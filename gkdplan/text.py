"""How what was found in other people's files appears in a message: short, printable, one line."""

from collections.abc import Sequence


def shown(value: object, max_length: int = 60) -> str:
    """A JSON value as its file writes it, cut to `max_length` characters."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return f"an object of {_counted(len(value), 'key')}"
    if isinstance(value, list):
        return f"a list of {_counted(len(value), 'item')}"
    text = repr(value[:max_length]) if isinstance(value, str) else repr(value)
    return text if len(text) <= max_length else f"{text[: max_length - 3]}..."


def listed(names: Sequence[str], max_names: int = 3) -> str:
    """The first few names in backticks and how many more there are."""
    head = ", ".join(f"`{printable(name)}`" for name in names[:max_names])
    more = len(names) - max_names
    return f"{head} and {more:,} more" if more > 0 else head


def printable(name: str, max_length: int = 120) -> str:
    """The name without anything that a terminal cannot show."""
    text = name if name.isprintable() else repr(name[:max_length])[1:-1]
    return text if len(text) <= max_length else f"{text[: max_length - 3]}..."


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
