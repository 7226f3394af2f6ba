from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from gkdplan.diagnostics import Diagnostic
from gkdplan.experts import MoeShape
from gkdplan.facts.config import read_shape
from gkdplan.facts.known import find_known
from gkdplan.json_file import UnreadableError, read_object
from gkdplan.rope import Llama3Scaling

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def refused(config: dict[str, Any]) -> tuple[Diagnostic, ...]:
    shape, findings = read_shape(config, "tiny/config.json")
    assert shape is None
    assert findings
    assert all(finding.path == "model" for finding in findings)
    return findings


def accepted(config: dict[str, Any]) -> Any:
    shape, findings = read_shape(config, "tiny/config.json")
    assert findings == ()
    return shape


def test_a_config_becomes_a_shape_with_the_defaults_of_its_family(llama_config: dict) -> None:
    del llama_config["rope_theta"], llama_config["hidden_act"]
    shape = accepted(llama_config)
    assert (shape.hidden_size, shape.ffn_hidden_size, shape.num_layers) == (16, 24, 2)
    assert (shape.num_attention_heads, shape.num_kv_heads, shape.head_dim) == (4, 2, 4)
    assert (shape.vocab_size, shape.max_position_embeddings, shape.norm_eps) == (8, 64, 1e-5)
    assert (shape.rope_theta, shape.rope_scaling) == (10_000.0, None)
    assert (shape.tied_embeddings, shape.qkv_bias, shape.qk_norm) == (False, False, False)


@pytest.mark.parametrize("kv_heads", [None, "missing"])
def test_a_llama_without_kv_heads_has_one_a_query_head(llama_config: dict, kv_heads: Any) -> None:
    llama_config["num_key_value_heads"] = kv_heads
    if kv_heads == "missing":
        del llama_config["num_key_value_heads"]
    assert accepted(llama_config).num_kv_heads == 4


def test_an_explicit_head_dim_wins_over_hidden_size(llama_config: dict) -> None:
    assert accepted(llama_config | {"head_dim": 10}).head_dim == 10


def test_families_differ_in_bias_and_norms(llama_config: dict) -> None:
    qwen2 = llama_config | {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
    qwen3 = qwen2 | {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "head_dim": 8}
    assert (accepted(qwen2).qkv_bias, accepted(qwen2).qk_norm) == (True, False)
    assert (accepted(qwen3).qkv_bias, accepted(qwen3).qk_norm) == (False, True)


@pytest.mark.parametrize("key", ["num_key_value_heads", "head_dim"])
def test_qwen3_sizes_that_transformers_would_default_to_another_model_are_required(
    llama_config: dict, key: str
) -> None:
    qwen3 = llama_config | {"model_type": "qwen3", "architectures": None, "head_dim": 8}
    del qwen3[key]
    (finding,) = refused(qwen3)
    assert finding.code == "GK104"
    assert finding.message == f"`{key}` is missing from tiny/config.json"


EXPERTS = {
    "qwen3_moe": {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 6},
    "qwen2_moe": {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 6}
    | {"shared_expert_intermediate_size": 12},
    "mixtral": {"num_local_experts": 8, "num_experts_per_tok": 2},
}


def moe_config(llama_config: dict, family: str) -> dict:
    return llama_config | {"model_type": family, "architectures": None} | EXPERTS[family]


def test_each_family_of_experts_has_its_own_sizes(llama_config: dict) -> None:
    shapes = {family: accepted(moe_config(llama_config, family)) for family in EXPERTS}
    assert {family: shape.moe for family, shape in shapes.items()} == {
        "qwen3_moe": MoeShape(8, 2, 6, weights_sum_to_one=False),
        "qwen2_moe": MoeShape(8, 2, 6, 12, shared_expert_gate=True, weights_sum_to_one=False),
        "mixtral": MoeShape(8, 2, 24),
    }
    assert [shape.qk_norm for shape in shapes.values()] == [True, False, False]
    assert [shape.qkv_bias for shape in shapes.values()] == [False, True, False]


@pytest.mark.parametrize("family", EXPERTS)
def test_sizes_of_experts_are_required(llama_config: dict, family: str) -> None:
    for key in EXPERTS[family]:
        config = moe_config(llama_config, family)
        del config[key]
        (finding,) = refused(config)
        named = "num_experts" if key == "num_local_experts" else key
        assert (finding.code, f"`{named}` is missing" in finding.message) == ("GK104", True)


def test_the_weights_of_experts_sum_to_one_where_the_config_says_so(llama_config: dict) -> None:
    config = moe_config(llama_config, "qwen3_moe") | {"norm_topk_prob": True}
    assert accepted(config).moe.weights_sum_to_one


@pytest.mark.parametrize("family", ["qwen2_moe", "qwen3_moe"])
@pytest.mark.parametrize(
    ("keys", "dense"),
    [
        ({}, ()),
        ({"decoder_sparse_step": 1, "mlp_only_layers": []}, ()),
        ({"mlp_only_layers": [3, 0]}, (0, 3)),
        ({"decoder_sparse_step": 2}, (0, 2, 4)),
        ({"decoder_sparse_step": 3, "mlp_only_layers": [2]}, (0, 1, 2, 3, 4)),
    ],
)
def test_layers_without_experts_are_those_of_transformers(
    llama_config: dict, family: str, keys: dict, dense: tuple[int, ...]
) -> None:
    config = moe_config(llama_config, family) | {"num_hidden_layers": 6} | keys
    shape, plain = accepted(config), accepted(moe_config(llama_config, family))
    assert shape.moe.dense_layers == dense
    built = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    assert shape.num_parameters == sum(p.numel() for p in built.parameters())
    assert shape.num_dense_layers == len(dense)
    assert plain.num_dense_layers == 0


def test_a_model_whose_every_layer_is_dense_needs_no_sizes_of_experts(llama_config: dict) -> None:
    config = llama_config | {"model_type": "qwen3_moe", "architectures": None}
    shape = accepted(config | {"mlp_only_layers": [0, 1]})
    assert (shape.moe, shape.num_dense_layers) == (None, 2)


def test_the_number_of_experts_is_read_in_both_spellings(llama_config: dict) -> None:
    config = moe_config(llama_config, "qwen3_moe")
    config["num_local_experts"] = config.pop("num_experts")
    assert accepted(config).moe.num_experts == 8


@pytest.mark.parametrize(
    ("family", "change", "code", "words"),
    [
        ("mixtral", {"decoder_sparse_step": 2}, "GK105", "`decoder_sparse_step` = 2"),
        ("mixtral", {"mlp_only_layers": [0]}, "GK105", "`mlp_only_layers`"),
        ("qwen3_moe", {"mlp_only_layers": [2]}, "GK104", "layers, from 0 to 1, found"),
        ("qwen3_moe", {"mlp_only_layers": [True]}, "GK104", "layers, from 0 to 1, found"),
        ("qwen3_moe", {"mlp_only_layers": 1}, "GK104", "layers, from 0 to 1, found 1"),
        ("qwen3_moe", {"decoder_sparse_step": 0}, "GK104", "found 0"),
        ("qwen3_moe", {"num_experts_per_tok": 9}, "GK104", "= 9 exceeds the 8 experts"),
        ("qwen3_moe", {"num_local_experts": 4}, "GK104", "= 8 and `num_local_experts` = 4 differ"),
        ("qwen3_moe", {"num_experts": 0}, "GK104", "found 0"),
        ("qwen2_moe", {"qkv_bias": False}, "GK105", "`qkv_bias` = false"),
    ],
)
def test_experts_that_a_shape_cannot_hold_are_refused(
    llama_config: dict, family: str, change: dict, code: str, words: str
) -> None:
    (finding,) = refused(moe_config(llama_config, family) | change)
    assert finding.code == code
    assert words in finding.message


def test_the_llama3_rule_is_read_in_both_spellings(llama_config: dict) -> None:
    old = llama_config | {"rope_theta": 5e5, "rope_scaling": LLAMA3}
    new = llama_config | {"rope_parameters": LLAMA3 | {"rope_theta": 5e5}}
    del new["rope_theta"]
    assert accepted(old) == accepted(new)
    assert accepted(old).rope_scaling == Llama3Scaling(8.0, 1.0, 4.0, 8192)
    assert accepted(old).rope_theta == 5e5


def test_default_rope_parameters_carry_only_the_base(llama_config: dict) -> None:
    del llama_config["rope_theta"]
    shape = accepted(
        llama_config | {"rope_parameters": {"rope_type": "default", "rope_theta": 100000}}
    )
    assert (shape.rope_theta, shape.rope_scaling) == (100_000.0, None)


def test_a_known_architecture_that_cannot_be_built_says_what_is_missing(
    llama_config: dict,
) -> None:
    shape, findings = read_shape(llama_config | {"model_type": "deepseek_v32"}, "config.json")
    assert shape is None
    assert [finding.code for finding in findings] == ["GK102"]
    assert any("indexer" in note for note in findings[0].notes)


def test_queries_and_keys_that_are_clipped_are_refused() -> None:
    config = dict(find_known("allenai/OLMoE-1B-7B-0924").config)
    assert read_shape(config | {"clip_qkv": None}, "config.json")[1] == ()
    shape, findings = read_shape(config | {"clip_qkv": 8.0}, "config.json")
    assert shape is None
    assert [finding.code for finding in findings] == ["GK105"]


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"model_type": "mamba"}, "GK102", "model_type 'mamba'"),
        ({"model_type": ["llama"]}, "GK102", "model_type a list of 1 item"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "GK102", "Sequence"),
        ({"hidden_size": None}, "GK104", "`hidden_size` is missing"),
        ({"hidden_size": "16"}, "GK104", "must be a whole number from 1 to 1,048,576, found '16'"),
        ({"num_hidden_layers": 0}, "GK104", "found 0"),
        ({"vocab_size": -8}, "GK104", "found -8"),
        ({"intermediate_size": 10**12}, "GK104", "found 1000000000000"),
        ({"num_attention_heads": 4.0}, "GK104", "found 4.0"),
        ({"num_attention_heads": True}, "GK104", "found true"),
        ({"rms_norm_eps": 2}, "GK104", "a number from 0 to 1"),
        ({"rms_norm_eps": True}, "GK104", "a number from 0 to 1, found true"),
        ({"tie_word_embeddings": "no"}, "GK104", "must be true or false"),
        ({"num_key_value_heads": 3}, "GK104", "not a multiple of `num_key_value_heads` = 3"),
        ({"hidden_size": 18}, "GK104", "`hidden_size` = 18 is not a multiple"),
        ({"partial_rotary_factor": 0.5}, "GK105", "`partial_rotary_factor` = 0.5"),
        ({"head_dim": 5}, "GK104", "`head_dim` = 5 is odd"),
        ({"hidden_act": "gelu"}, "GK105", "`hidden_act` = 'gelu'"),
        ({"mlp_bias": True}, "GK105", "`mlp_bias` = true"),
        ({"attention_bias": True}, "GK105", "`attention_bias` = true"),
        ({"use_sliding_window": True}, "GK105", "`use_sliding_window` = true"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "GK105", "`layer_types`"),
        (
            {"quantization_config": {"bits": 4}},
            "GK105",
            "`quantization_config` = an object of 1 key in",
        ),
        ({"auto_map": {"AutoModel": "code.Model"}}, "GK105", "`auto_map`"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2}}, "GK105", "`rope_scaling.type`"),
        ({"rope_parameters": {"rope_type": "linear"}}, "GK104", "`rope_parameters.factor` is"),
        ({"rope_parameters": {"full_attention": {}}}, "GK105", "`rope_parameters.full_attention`"),
        ({"rope_scaling": LLAMA3 | {"factor": None}}, "GK104", "`rope_scaling.factor` is missing"),
        ({"rope_scaling": LLAMA3 | {"high_freq_factor": 1}}, "GK104", "must exceed"),
        ({"rope_parameters": {"rope_theta": 5e5}}, "GK104", "`rope_theta` = 10000 and"),
        ({"rope_scaling": LLAMA3, "rope_parameters": {"rope_theta": 1e4}}, "GK104", "differ"),
    ],
)
def test_what_a_shape_cannot_hold_is_refused_by_key_and_value(
    llama_config: dict, change: dict, code: str, words: str
) -> None:
    (finding,) = refused(llama_config | change)
    assert finding.code == code
    assert words in finding.message


def test_an_unsupported_architecture_lists_the_supported_families(llama_config: dict) -> None:
    (finding,) = refused(llama_config | {"model_type": "gemma2"})
    for name in ("llama", "qwen2", "qwen3"):
        assert name in finding.help[0]


def test_a_qwen2_head_dim_is_honoured_as_transformers_does(llama_config: dict) -> None:
    qwen2 = llama_config | {"model_type": "qwen2", "architectures": None, "head_dim": 8}
    assert accepted(qwen2).head_dim == 8


def test_all_wrong_keys_are_found_at_once(llama_config: dict) -> None:
    findings = refused(
        llama_config | {"hidden_size": 0, "vocab_size": "8", "mlp_bias": True, "hidden_act": "relu"}
    )
    assert sorted(finding.code for finding in findings) == ["GK104", "GK104", "GK105", "GK105"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"{", "is not JSON at line 1, column 2"),
        (b"[1]", "does not hold a JSON object"),
        (b'{"a": NaN}', "is not JSON: NaN"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "too many digits"),
        (b'{"a":' * 100_000, "is nested too deeply"),
        (b"\xff\xfe\xfa", "is not UTF-8"),
        (b"", "is not JSON at line 1, column 1"),
    ],
)
def test_a_text_that_is_no_json_object_gives_a_reason(
    tmp_path: Any, text: bytes, words: str
) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(text)
    with pytest.raises(UnreadableError, match=words):
        read_object(str(path), 2**20)


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Any) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b" " * 2000)
    with pytest.raises(UnreadableError, match=r"at most 1\.0 KiB are read"):
        read_object(str(path), 1024)
