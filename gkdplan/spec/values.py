"""What the values of a plan may be."""

from typing import Annotated

from pydantic import AfterValidator, Field

from gkdplan.addresses import HOST, is_host
from gkdplan.units import parse_bytes

LARGEST_COUNT = 10**9


def _not_zero(size: str) -> str:
    """Raises ValueError where the size is less than a byte."""
    if parse_bytes(size) < 1:
        raise ValueError(size)
    return size


def _has_port(host: str) -> str:
    """Raises ValueError where its port is none."""
    if not is_host(host):
        raise ValueError(host)
    return host


Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", examples=["qwen3-8b"])]
Size = Annotated[
    str,
    Field(pattern=r"^\d{1,9}(\.\d{1,9})? *(B|KiB|MiB|GiB|TiB)$", examples=["2 GiB"]),
    AfterValidator(_not_zero),
]
Index = Annotated[int, Field(ge=0, le=LARGEST_COUNT)]
Count = Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
Seed = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0.0, le=10.0**7)]
NonNegative = Annotated[float, Field(ge=0.0)]
Positive = Annotated[float, Field(gt=0.0)]
Host = Annotated[
    str, Field(pattern=HOST, examples=["images.example.org"]), AfterValidator(_has_port)
]
