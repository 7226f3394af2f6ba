"""Whatever the files hold, looking them up ends in facts or in diagnostics, and never raises."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tiny_files import LLAMA, TOKENIZER

from gkdplan.diagnostics import Severity
from gkdplan.facts.config import read_shape
from gkdplan.facts.lookup import look_up
from gkdplan.facts.model import ModelRef
from gkdplan.facts.rows import read_data_file
from gkdplan.vocab import Role

NUMBERS = st.one_of(
    st.integers(-3, 70), st.integers(), st.floats(), st.sampled_from([0, 10**400, -(2**63), 1e308])
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
KEYS = [
    *LLAMA,
    "head_dim", "rope_scaling", "rope_parameters", "tie_word_embeddings", "attention_bias",
    "mlp_bias", "layer_types", "use_sliding_window", "quantization_config", "auto_map",
]  # fmt: skip
ROPE = st.dictionaries(
    st.sampled_from(
        ["rope_type", "type", "factor", "low_freq_factor", "high_freq_factor", "rope_theta",
         "original_max_position_embeddings", "partial_rotary_factor"]
    ),
    st.one_of(JSON, st.sampled_from(["llama3", "default", "yarn"]), st.integers(1, 100)),
)  # fmt: skip
CONFIGS = st.dictionaries(st.sampled_from(KEYS), st.one_of(JSON, ROPE), max_size=6)

MANY = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def look(directory: Path) -> bool:
    """Whether there are facts; there are none exactly where there is an error."""
    model = str(directory)
    facts, findings = look_up(
        ModelRef(Role.STUDENT, model, None), ModelRef(Role.TEACHER, model, None), "cpu", (), ()
    )
    errors = [finding for finding in findings if finding.severity is Severity.ERROR]
    assert (facts is None) == bool(errors)
    for finding in findings:
        finding.message.encode()
        assert finding.message.isprintable()
        assert not finding.message.endswith(".")
    return facts is not None


@MANY
@given(CONFIGS)
def test_no_config_makes_reading_its_shape_raise(change: dict[str, Any]) -> None:
    shape, findings = read_shape(LLAMA | change, "tiny/config.json")
    assert (shape is None) == bool(findings)
    if shape is not None:
        assert 0 < shape.num_parameters < 2**80


@pytest.mark.parametrize("depth", [400, 900, 960, 10**5])
@pytest.mark.parametrize(
    "config",
    [
        '{"rope_scaling": {"x": DEEP}, "rope_parameters": {"x": DEEP}}',
        '{"model_type": DEEP, "architectures": DEEP}',
        '{"model_type": "llama", "architectures": DEEP}',
        '{"model_type": "llama", "layer_types": DEEP, "hidden_act": DEEP, "vocab_size": DEEP}',
    ],
)
def test_no_depth_of_nesting_makes_looking_it_up_raise(
    model_directory: Path, depth: int, config: str
) -> None:
    deep = config.replace("DEEP", "[" * depth + "]" * depth)
    (model_directory / "config.json").write_text(deep)
    assert not look(model_directory)


@MANY
@given(st.one_of(st.binary(max_size=40), JSON.map(lambda value: json.dumps(value).encode())))
@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "generation_config.json",
        "chat_template.jinja",
        "model.safetensors",
        "model.safetensors.index.json",
    ],
)
def test_no_content_of_a_models_file_makes_looking_it_up_raise(
    model_directory: Path, name: str, content: bytes
) -> None:
    if name == "model.safetensors.index.json":
        (model_directory / "model.safetensors").unlink(missing_ok=True)
    (model_directory / name).write_bytes(content)
    look(model_directory)


def mutated(content: bytes, cuts: list[tuple[int, int, bytes]]) -> bytes:
    for place, length, put in cuts:
        start = place % (len(content) + 1)
        content = content[:start] + put + content[start + length :]
    return content


CUTS = st.lists(
    st.tuples(st.integers(0, 10**4), st.integers(0, 9), st.binary(max_size=4)), max_size=3
)


@MANY
@given(cuts=CUTS)
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_no_damage_to_a_good_file_makes_looking_it_up_raise(
    model_directory: Path, name: str, cuts: list[tuple[int, int, bytes]]
) -> None:
    path = model_directory / name
    good = path.read_bytes()
    try:
        path.write_bytes(mutated(good, cuts))
        look(model_directory)
    finally:
        path.write_bytes(good)


@MANY
@given(
    header=st.dictionaries(
        st.sampled_from(["a", "b", "__metadata__", "\ud800"]),
        st.one_of(
            JSON,
            st.fixed_dictionaries(
                {
                    "dtype": st.sampled_from(["F32", "U8", "X"]),
                    "shape": st.lists(st.integers(-1, 4), max_size=3),
                    "data_offsets": st.lists(st.integers(-1, 40), max_size=3),
                }
            ),
        ),
    ),
    num_data_bytes=st.integers(0, 40),
)
def test_no_header_makes_looking_it_up_raise(
    model_directory: Path, header: dict[str, Any], num_data_bytes: int
) -> None:
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + bytes(num_data_bytes)
    (model_directory / "model.safetensors").write_bytes(content)
    assert not look(model_directory)


@MANY
@given(
    vocab=st.one_of(JSON, st.dictionaries(st.text(max_size=2), NUMBERS)),
    added=st.one_of(JSON, st.lists(st.fixed_dictionaries({"id": JSON, "content": JSON}))),
    decoder=st.one_of(JSON, st.dictionaries(st.text("0123٣", max_size=12), JSON)),
    eos=JSON,
)
def test_no_tokenizer_makes_looking_it_up_raise(
    model_directory: Path, vocab: Any, added: Any, decoder: Any, eos: Any
) -> None:
    tokenizer = TOKENIZER | {"model": {"vocab": vocab}, "added_tokens": added}
    settings_file = {"added_tokens_decoder": decoder, "eos_token": eos, "chat_template": added}
    (model_directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    (model_directory / "tokenizer_config.json").write_text(json.dumps(settings_file))
    look(model_directory)


ROWS = st.lists(
    st.one_of(
        st.binary(max_size=20),
        JSON.map(lambda value: json.dumps(value).encode()),
        st.fixed_dictionaries({"prompt": JSON, "completion": JSON}).map(
            lambda row: json.dumps(row).encode()
        ),
        st.fixed_dictionaries({"messages": JSON}).map(lambda row: json.dumps(row).encode()),
    ),
    max_size=4,
)


@MANY
@given(rows=ROWS, suffix=st.one_of(st.just(""), st.text(max_size=4).map(lambda text: f"#{text}")))
@pytest.mark.parametrize("name", ["x.jsonl", "x.json"])
def test_no_rows_make_reading_them_raise(
    tmp_path: Path, name: str, rows: list[bytes], suffix: str
) -> None:
    (tmp_path / name).write_bytes(b"\n".join(rows))
    file, findings = read_data_file(f"{tmp_path / name}{suffix}")
    assert (file is None) == any(finding.severity is Severity.ERROR for finding in findings)
    if file is not None:
        assert 0 <= file.num_rows_with_response <= file.num_rows
    for finding in findings:
        finding.message.encode()


@MANY
@given(st.text(max_size=30))
@example("a" * 5000)
@example("\0")
@example("\ud800")
@example("../" * 40)
def test_no_name_of_a_model_makes_looking_it_up_raise(name: str) -> None:
    facts, findings = look_up(
        ModelRef(Role.STUDENT, name, name), ModelRef(Role.TEACHER, name, None), name, (name,), ()
    )
    assert facts is None
    assert findings
    for finding in findings:
        " ".join((finding.message, *finding.notes, *finding.help)).encode()
