"""Bytes, tokens and seconds: parsed from and printed for people."""

import re

_SUFFIXES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(B|KiB|MiB|GiB|TiB)\s*")


def parse_bytes(text: str) -> int:
    """Bytes of "2 GiB", "512MiB", "80 B".

    Raises ValueError where the number or the binary unit is missing.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a size such as '2 GiB' (units: {', '.join(_SUFFIXES)})")
    return int(float(match[1]) * _SUFFIXES[match[2]])


def format_bytes(num_bytes: int) -> str:
    """The size in the largest unit that keeps at least one whole digit: 2.9 GiB, 512 B."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if abs(num_bytes) >= _SUFFIXES[unit]:
            return f"{num_bytes / _SUFFIXES[unit]:.1f} {unit}"
    return f"{num_bytes} B"


def format_count(count: int) -> str:
    """A count of parameters as the field writes it: 135 M, 7.62 B."""
    for scale, suffix in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= 0.9995 * scale:  # what three digits round up to it
            scaled = count / scale
            return f"{scaled:.0f} {suffix}" if scaled >= 100 else f"{scaled:.3g} {suffix}"
    return str(count)


def format_seconds(seconds: float) -> str:
    """Seconds with the digits that matter: <1 ms, 0.14 s, 3.2 s, 412 s."""
    if 0 < seconds < 0.001:
        return "<1 ms"
    return f"{seconds:.0f} s" if seconds >= 100 else f"{seconds:.2g} s"
