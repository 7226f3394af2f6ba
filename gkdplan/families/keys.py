"""Typed reading of one JSON object: every key that is missing or wrong becomes a finding."""

from collections.abc import Mapping

from gkdplan.diagnostics import Diagnostic, error
from gkdplan.text import shown


class Keys:
    """The keys of `values`, an object of the file `origin`; `findings` grows while they are read.

    A reader answers with a stand-in where it has a finding, so that one pass finds everything;
    the stand-ins mean nothing once there are findings.
    """

    def __init__(self, values: Mapping[str, object], origin: str, prefix: str = "") -> None:
        self.values = values
        self.origin = origin
        self.prefix = prefix
        self.findings: list[Diagnostic] = []

    def has(self, key: str) -> bool:
        """Whether the key has a value; null is none."""
        return self.values.get(key) is not None

    def count(self, key: str, at_most: int, default: int | None = None) -> int:
        """A whole number from 1 to `at_most`; without a default the key is required."""
        if not self.has(key):
            return self._absent(key) if default is None else default
        value = self.values[key]
        if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= at_most:
            return value
        self._wrong(key, f"a whole number from 1 to {at_most:,}")
        return 1

    def number(
        self, key: str, at_least: float, at_most: float, default: float | None = None
    ) -> float:
        """A number within the bounds; without a default the key is required."""
        if not self.has(key):
            return self._absent(key) if default is None else default
        value = self.values[key]
        match value:
            case bool():
                pass
            case int() | float() if at_least <= value <= at_most:
                return float(value)
        self._wrong(key, f"a number from {at_least:g} to {at_most:g}")
        return 1.0

    def optional_number(self, key: str, at_least: float, at_most: float) -> float | None:
        """A number within the bounds, or None where there is none."""
        return self.number(key, at_least, at_most) if self.has(key) else None

    def numbers(self, key: str, at_least: float, at_most: float, length: int) -> tuple[float, ...]:
        """A list of `length` numbers within the bounds; required."""
        if not self.has(key):
            self._absent(key)
            return ()
        values = self.values[key]
        if not isinstance(values, list) or len(values) != length:
            self._wrong(key, f"a list of {length} numbers")
            return ()
        items = Keys({str(i): value for i, value in enumerate(values)}, self.origin, f"{key}.")
        items.findings = self.findings
        return tuple(items.number(str(i), at_least, at_most) for i in range(length))

    def layers(self, key: str, num_layers: int) -> tuple[int, ...]:
        """A list of numbers of the model's layers; none where it is left out."""
        values = self.values[key] if self.has(key) else []
        known = range(num_layers)
        if isinstance(values, list) and all(type(n) is int and n in known for n in values):
            return tuple(values)
        self._wrong(key, f"a list of numbers of layers, from 0 to {num_layers - 1}")
        return ()

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.values[key] if self.has(key) else default
        if isinstance(value, bool):
            return value
        self._wrong(key, "true or false")
        return default

    def inner(self, key: str) -> "Keys":
        """The keys of a nested object, whose findings are among this one's."""
        nested = Keys(self.table(key), self.origin, f"{self.prefix}{key}.")
        nested.findings = self.findings
        return nested

    def table(self, key: str) -> Mapping[str, object]:
        """A nested object; where there is none, an empty one."""
        value = self.values[key] if self.has(key) else {}
        if isinstance(value, dict):
            return value
        self._wrong(key, "an object or null")
        return {}

    def refuse(self, key: str, why: str) -> None:
        """A value that is well formed and that this version cannot represent."""
        value = shown(self.values.get(key))
        self.findings.append(
            error(
                "GK105",
                f"`{self.prefix}{key}` = {value} in {self.origin} is not something that this "
                "version can represent",
                "model",
                notes=(why,),
            )
        )

    def wrong(self, message: str) -> None:
        """Values that contradict each other."""
        self.findings.append(error("GK104", f"{message}, in {self.origin}", "model"))

    def _absent(self, key: str) -> int:
        self.findings.append(
            error("GK104", f"`{self.prefix}{key}` is missing from {self.origin}", "model")
        )
        return 1

    def _wrong(self, key: str, expected: str) -> None:
        found = shown(self.values[key])
        self.findings.append(
            error(
                "GK104",
                f"`{self.prefix}{key}` in {self.origin} must be {expected}, found {found}",
                "model",
            )
        )
