"""`python -m gkdplan.spec.reference`: the plan's reference as Markdown, from the vocabulary."""

from collections.abc import Iterator

from gkdplan.spec.places import Path
from gkdplan.spec.toml_words import format_path, format_value
from gkdplan.spec.vocabulary import Node, describe, plan_schema

_OPENING = """\
# The plan

One TOML file. Unknown keys are errors, values are never coerced, and relative paths are relative
to the working directory. This page is written by `python -m gkdplan.spec.reference` from
`gkdplan/spec`; `gkdplan schema` prints the same as a JSON schema, which an editor finds
through a first line such as `#:schema ../schemas/plan.schema.json`. Nothing is ignored: what
this version cannot plan yet is refused by name, with `GK590`; what it plans and prices and cannot
run yet, with a warning, `GK591`.
"""


def reference() -> str:
    """Every table of a plan, with each key's type, default and meaning."""
    return "\n".join([_OPENING, *_tables((), plan_schema())])


def _tables(path: Path, table: Node) -> Iterator[str]:
    properties = table["properties"]
    keys = {key: node for key, node in properties.items() if "properties" not in node}
    if path:
        yield f"## `[{format_path(path)}]`\n\n{table['description']}\n"
    if path == ("teacher", "parallel"):
        yield "The keys of `[student.parallel]`.\n"
        return
    if keys:
        yield "| key | value | default | meaning |\n|---|---|---|---|"
        required = table.get("required", [])
        yield from (_row(key, node, key in required) for key, node in keys.items())
        yield ""
    for key, node in properties.items():
        if key not in keys:
            yield from _tables((*path, key), node)


def _row(key: str, node: Node, is_required: bool) -> str:
    default = f"`{format_value(node['default'])}`" if "default" in node else ""
    wanted = "required" if is_required else default
    meaning = " ".join(node["description"].split())
    return f"| `{key}` | {describe(node)} | {wanted} | {meaning} |"


if __name__ == "__main__":
    print(reference(), end="")
