"""What a translation is made of."""

from dataclasses import dataclass

from gkdplan.swift.command import Flag


@dataclass(frozen=True, slots=True)
class Said:
    """A key of a plan with its value; `source` is the flag that it was, or why it is there."""

    key: str
    value: object
    source: Flag | str | None

    @property
    def remark(self) -> str:
        return self.source.label if isinstance(self.source, Flag) else self.source or ""


@dataclass(frozen=True, slots=True)
class Loss:
    """A flag that is no key, and why."""

    flag: Flag
    why: str


DEFAULT = "ms-swift's default"
