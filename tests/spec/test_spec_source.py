import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gkdplan.spec.places import Path
from gkdplan.spec.source import Source
from gkdplan.spec.toml_words import format_path

PLAN = '''\
name = "a"  # the name
run.steps = 3

[student]
model = "m" # [not.a.header]
parallel = { tensor = 2, "odd key" = [1, 2] }
parallel_notes = """
tensor = 4
"""

[data]
train = [
    "a.jsonl",  # first, with a ] in the comment
    'b#1.jsonl'
]

[[extra.rows]]
x.y = 1979-05-27 07:32:00 # date
[[extra.rows]]
x = 2
[extra.rows.deeper]
z = 1
'''


@pytest.mark.parametrize(
    ("path", "line", "column", "length"),
    [
        ("name", 1, 8, 3),
        ("run.steps", 2, 13, 1),
        ("run", 2, 1, 3),
        ("student", 4, 1, 9),
        ("student.model", 5, 9, 3),
        ("student.parallel", 6, 12, 34),
        ("student.parallel.tensor", 6, 23, 1),
        ('student.parallel."odd key"[1]', 6, 42, 1),
        ("student.parallel_notes", 7, 18, 3),
        ("data.train", 12, 9, 1),
        ("data.train[0]", 13, 5, 9),
        ("data.train[1]", 14, 5, 11),
        ("extra.rows[0].x.y", 18, 7, 19),
        ("extra.rows[1]", 19, 1, 14),
        ("extra.rows[1].x", 20, 5, 1),
        ("extra.rows[1].deeper.z", 22, 5, 1),
    ],
)
def test_each_value_has_its_place(path: str, line: int, column: int, length: int) -> None:
    span = Source.parse("plan.toml", PLAN).locate(path)
    assert (span.file, span.line, span.column, span.length) == ("plan.toml", line, column, length)


@pytest.mark.parametrize(
    ("missing", "ancestor"),
    [
        ("student.parallel.pipeline", "student.parallel"),
        ("student.keep.layers[3]", "student"),
        ("data.train[7]", "data.train"),
        ("student_model", None),
    ],
)
def test_a_missing_key_stands_at_its_nearest_ancestor(missing: str, ancestor: str | None) -> None:
    source = Source.parse("plan.toml", PLAN)
    span = source.locate(missing)
    if ancestor is None:
        assert (span.line, span.column, span.length) == (1, 1, 0)
    else:
        assert span == source.locate(ancestor)


def test_the_key_of_a_value_is_kept_apart() -> None:
    span = Source.parse("plan.toml", PLAN).locate_key(("student", "parallel", "odd key"))
    assert (span.line, span.column, span.length) == (6, 26, 9)


def test_carriage_returns_do_not_move_places() -> None:
    source = Source.parse("plan.toml", PLAN.replace("\n", "\r\n"))
    assert source.places == Source.parse("plan.toml", PLAN).places


names = st.one_of(
    st.text("abz_-09", min_size=1, max_size=3),
    st.text("a.=[]#'\"\\ \té", max_size=4),
)
strings = st.text("ab,]}#='\"\\\n é", max_size=6)
scalars = st.one_of(
    st.integers(),
    st.booleans(),
    st.floats(allow_nan=False),
    st.datetimes(),
    st.dates(),
    st.times(),
    strings,
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
documents = st.dictionaries(names, values | st.lists(st.dictionaries(names, values, max_size=2)))
gaps = st.sampled_from(["", " ", "\t"])
breaks = st.sampled_from(["", " ", "\n", " # a ] } , comment\n", "\n\n"])


@st.composite
def toml(draw: st.DrawFn, document: dict[str, Any]) -> str:
    """One of the many ways to write a document down."""
    return "\n".join(_table(draw, (), document))


def _table(draw: st.DrawFn, path: tuple[str, ...], table: dict[str, Any]) -> list[str]:
    """Plain keys first, then tables with headers of their own."""
    later = {}
    lines = []
    for name, value in table.items():
        is_rows = isinstance(value, list) and value and all(isinstance(x, dict) for x in value)
        if (isinstance(value, dict) or is_rows) and draw(st.booleans()):
            later[name] = value
        else:
            lines += _key_value(draw, (name,), value)
    for name, value in later.items():
        inner = (*path, name)
        header = _dotted(draw, inner)
        for item in value if isinstance(value, list) else [value]:
            lines.append(f"[[{header}]] # x" if isinstance(value, list) else f"  [{header}]")
            lines += _table(draw, inner, item)
    return lines


def _key_value(draw: st.DrawFn, names: tuple[str, ...], value: Any) -> list[str]:
    if isinstance(value, dict) and value and draw(st.booleans()):
        return [line for k, v in value.items() for line in _key_value(draw, (*names, k), v)]
    key = _dotted(draw, names)
    return [f"{draw(gaps)}{key}{draw(gaps)}={draw(gaps)}{_write(draw, value)}{draw(gaps)}# end"]


def _dotted(draw: st.DrawFn, names: tuple[str, ...]) -> str:
    return f"{draw(gaps)}.{draw(gaps)}".join(_name(draw, name) for name in names)


def _name(draw: st.DrawFn, name: str) -> str:
    is_bare = name and all(c in "abz_-09" for c in name)
    return name if is_bare and draw(st.booleans()) else _basic(name)


def _basic(text: str) -> str:
    for plain, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\t", "\\t")):
        text = text.replace(plain, escaped)
    return f'"{text}"'


def _write(draw: st.DrawFn, value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return _write_string(draw, value)
        case list():
            items = [f"{draw(breaks)}{_write(draw, item)}{draw(breaks)}" for item in value]
            return "[" + ",".join(items) + (draw(breaks) if not items else "") + "]"
        case dict():
            items = [f"{_name(draw, k)}{draw(gaps)}={_write(draw, v)}" for k, v in value.items()]
            return "{ " + ", ".join(items) + " }"
        case int() | float():
            return repr(value)
        case _:
            return str(value.isoformat())


def _write_string(draw: st.DrawFn, value: str) -> str:
    ways = [_basic(value)]
    if "'" not in value and "\n" not in value:
        ways.append(f"'{value}'")
    if "'''" not in value and not value.endswith("'''") and not value.startswith("\n"):
        ways.append(f"'''{value}'''")
    if "\\" not in value and '"""' not in value and not value.startswith("\n"):
        ways.append(f'"""{value}"""')
    return draw(st.sampled_from(ways))


def flatten(value: Any, path: Path = ()) -> dict[Path, Any]:
    """Every key and every array element below a value."""
    match value:
        case dict():
            items: Any = value.items()
        case list():
            items = enumerate(value)
        case _:
            return {}
    flat = {}
    for name, inner in items:
        flat[(*path, name)] = inner
        flat |= flatten(inner, (*path, name))
    return flat


@given(documents.flatmap(toml))
def test_places_are_exactly_the_keys_and_elements_of_the_document(text: str) -> None:
    source = Source.parse("plan.toml", text)
    assert source.places.keys() == flatten(tomllib.loads(text)).keys()


@given(documents.flatmap(toml))
def test_the_text_of_a_place_parses_to_its_value(text: str) -> None:
    source = Source.parse("plan.toml", text)
    for path, value in flatten(source.values).items():
        place = source.places[path]
        key, written = (source.text[slice(*extent)] for extent in (place.key, place.value))
        if isinstance(path[-1], str):
            assert list(tomllib.loads(f"{key} = 0")) == [path[-1]]
        if place.key == place.value and isinstance(path[-1], str):
            assert isinstance(value, dict), "only a table exists by its name alone"
        elif place.value[0] < place.key[0]:
            assert tomllib.loads(written), "a header"
        else:
            assert tomllib.loads(f"value = {written}")["value"] == value


@given(st.lists(names, min_size=1, max_size=3))
def test_a_path_is_written_as_toml_would_read_it(parts: list[str]) -> None:
    written = tomllib.loads(f"{format_path(tuple(parts))} = 1")
    for part in parts:
        written = written[part]
    assert written == 1
