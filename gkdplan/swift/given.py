"""The flags of a command by name, each read as what it is, and which of them were."""

from collections.abc import Iterator

from gkdplan.swift.command import Command, Flag, refused

TRUE, FALSE = {"true", "1", "yes", "t", "y"}, {"false", "0", "no", "f", "n"}


class Given:
    """Flags by their names of 4.x; what was asked for is no longer left.

    The methods raise UserError (GK010) where a value is not of the kind that is asked for.
    """

    def __init__(self, command: Command) -> None:
        self.command = command
        self._flags = {(flag.role, flag.name): flag for flag in command.flags}
        self._read: set[tuple[str, str]] = set()

    def flag(self, name: str, role: str = "") -> Flag | None:
        """The flag; those of training and of the rollout may stand in a group or beside it."""
        roles = (role,) if role else ("", "train", "rollout")
        for place in roles:
            found = self._flags.get((place, name))
            if found:
                self._read.add((place, name))
                return found
        return None

    def text(self, name: str, role: str = "") -> str | None:
        flag = self.flag(name, role)
        return None if flag is None or not flag.values else _only(flag)

    def texts(self, name: str) -> tuple[str, ...]:
        flag = self.flag(name)
        return flag.values if flag else ()

    def truth(self, name: str, *, default: bool = False) -> bool:
        """A flag that stands alone is true."""
        flag = self.flag(name)
        if flag is None:
            return default
        word = _only(flag).lower() if flag.values else "true"
        if word not in TRUE | FALSE:
            raise _of_another_kind(flag, "true or false")
        return word in TRUE

    def count(self, name: str, role: str = "") -> int | None:
        text = self.text(name, role)
        return None if text is None else int(self._number(name, role, text, int))

    def number(self, name: str) -> float | None:
        text = self.text(name)
        return None if text is None else self._number(name, "", text, float)

    def left(self) -> Iterator[Flag]:
        """Flags that nobody asked for."""
        return (flag for place, flag in self._flags.items() if place not in self._read)

    def _number(self, name: str, role: str, text: str, kind: type[int] | type[float]) -> float:
        try:
            return kind(text)
        except ValueError:
            flag = self.flag(name, role)
            assert flag is not None
            words = "a whole number" if kind is int else "a number"
            raise _of_another_kind(flag, words) from None


def _only(flag: Flag) -> str:
    if len(flag.values) != 1:
        raise _of_another_kind(flag, "one value")
    return flag.values[0]


def _of_another_kind(flag: Flag, kind: str) -> Exception:
    return refused(f"`--{flag.written}` takes {kind}, not `{' '.join(flag.values)}`", flag.span)
