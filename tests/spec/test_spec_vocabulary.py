import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gkdplan.spec.plan import Plan
from gkdplan.spec.reference import reference
from gkdplan.spec.repair import repair
from gkdplan.spec.toml_words import format_path
from gkdplan.spec.vocabulary import Node, describe, every_key, node_at, plan_schema

ROOT = Path(__file__).parents[2]
REFRESH = "write it anew: see its first lines, or `gkdplan schema > schemas/plan.schema.json`"


def test_the_schema_file_is_current() -> None:
    assert json.loads((ROOT / "schemas/plan.schema.json").read_text()) == plan_schema(), REFRESH


def test_the_reference_is_current() -> None:
    assert (ROOT / "docs/plan.md").read_text() == reference(), REFRESH


def nodes(node: Node) -> list[Node]:
    inner = [found for child in node.get("properties", {}).values() for found in nodes(child)]
    return [node, *inner]


def test_every_key_is_described() -> None:
    nameless = [describe(node) for node in nodes(plan_schema()) if not node.get("description")]
    assert nameless == []


def test_no_node_refers_elsewhere_or_takes_null() -> None:
    text = json.dumps(plan_schema())
    assert "$ref" not in text
    assert "null" not in text


def test_every_table_refuses_unknown_keys() -> None:
    tables = [node for node in nodes(plan_schema()) if "properties" in node]
    assert all(table["additionalProperties"] is False for table in tables)


def test_a_path_leads_to_its_node() -> None:
    assert node_at(("student", "parallel", "tensor")) == {
        "type": "integer",
        "minimum": 1,
        "maximum": 1_000_000_000,
        "default": 1,
        "description": "Ranks that share each matrix.",
    }
    assert node_at(("run", "loggers", 3)) == {"enum": ["tensorboard", "wandb"], "type": "string"}
    assert node_at(("student", "tensor")) is None
    assert node_at(("optimizer", "betas", 2)) is None


def test_a_key_knows_every_table_that_has_it() -> None:
    assert every_key()["top_k"] == ["teacher.server.top_k", "distill.top_k", "generation.top_k"]


def accepts(path: tuple[str, ...], value: object) -> bool:
    """Whether pydantic takes the value at a path; other findings do not count."""
    tree: object = tuple(value) if isinstance(value, list) else value
    for key in reversed(path):
        tree = {key: tree}
    try:
        Plan.model_validate(tree, by_alias=True, by_name=False)
    except ValidationError as failure:
        refused = [error["loc"][: len(path)] for error in failure.errors()]
        return path not in refused
    return True


leaves = [
    tuple(path.split("."))
    for paths in every_key().values()
    for path in paths
    if "properties" not in (node_at(tuple(path.split("."))) or {})
]
values = st.one_of(
    st.integers(-5, 200),
    st.floats(allow_nan=True),
    st.booleans(),
    st.sampled_from(["2", "0.5", "-1", "yes", "Full", "fp16", "bfloat16", "2GB", "adam", "1e-5"]),
    st.text(max_size=3),
)


@given(st.sampled_from(leaves), values)
def test_what_a_help_says_to_write_is_accepted(path: tuple[str, ...], value: object) -> None:
    import tomllib

    node = node_at(path) or {}
    better = repair(node, value)
    if better is not None:
        assert accepts(path, tomllib.loads(f"value = {better}")["value"]), format_path(path)
