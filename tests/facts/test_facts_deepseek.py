"""DeepSeek's configs and tensors, as transformers writes and as this project reads them."""

import math
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from gkdplan.facts.config import read_shape
from gkdplan.facts.known import find_known
from gkdplan.families import FAMILIES
from gkdplan.families.experts import written_experts
from gkdplan.families.tensors import expected_tensors
from gkdplan.latent import LatentShape
from gkdplan.routing import Routing
from gkdplan.shape import ModelShape

V2_LITE, V2, V3 = (f"deepseek-ai/DeepSeek-{name}" for name in ("V2-Lite", "V2", "V3"))


def read(hub_id: str, **changes: Any) -> tuple[ModelShape | None, list[str]]:
    """The shape of a known model with changes to its config, and codes with their reasons."""
    known = find_known(hub_id)
    assert known is not None
    shape, findings = read_shape({**known.config, **changes}, "config.json")
    return shape, [f"{f.code}: {f.message} {' '.join(f.notes)}" for f in findings]


def test_sizes_of_latents_heads_and_experts_are_read() -> None:
    (lite, _), (v2, _), (v3, _) = (read(hub_id) for hub_id in (V2_LITE, V2, V3))
    assert lite.latent == LatentShape(None, 512, 64, 128)
    assert v2.latent == v3.latent == LatentShape(1536, 512, 64, 128)
    assert (v3.head_dim, v3.query_size, v3.context_size) == (192, 128 * 192, 128 * 128)
    assert lite.moe.routing == Routing()
    assert v2.moe.routing == Routing(num_groups=8, num_groups_per_token=3, scale=16.0)
    assert v2.moe.routing.num_scoring_group == 1
    assert v3.moe.routing == Routing("sigmoid", True, 8, 4, num_scoring_group=2, scale=2.5)
    assert (lite.moe.shared_ffn_hidden_size, v3.moe.shared_ffn_hidden_size) == (2816, 2048)
    assert (lite.moe.dense_layers, v3.moe.dense_layers) == ((0,), (0, 1, 2))


def test_stretched_positions_sharpen_the_scores() -> None:
    """(0.1 m ln 40 + 1)^2 / sqrt(192), with m = 0.707 and 1; without a stretch 1 / sqrt(192)."""
    lite, _ = read(V2_LITE)
    assert lite.attention.scale == pytest.approx(0.114721, rel=1e-5)
    assert read(V3)[0].attention.scale == pytest.approx(0.135234, rel=1e-5)
    assert read(V3, rope_scaling=None)[0].attention.scale is None
    assert lite.rope_scaling.attention_factor == 1.0


@pytest.mark.parametrize("hub_id", [V2_LITE, V2, V3])
def test_what_is_read_is_written_again(hub_id: str) -> None:
    shape, _ = read(hub_id)
    family = FAMILIES[shape.family]
    again = {**family.write(shape), **written_experts(family.experts, shape)}
    read_again, findings = read(hub_id, **again, rope_scaling=None)
    assert findings == []
    assert read_again.attention.scale == pytest.approx(shape.attention.scale, rel=1e-12)
    assert read_again.moe == shape.moe
    assert read_again.latent == shape.latent


@pytest.mark.parametrize("hub_id", [V2_LITE, V2, V3])
def test_tensors_are_those_of_transformers(hub_id: str) -> None:
    """Of a few layers, whose experts transformers holds in one matrix each."""
    changes = {"num_hidden_layers": 4, "n_routed_experts": 16, "vocab_size": 64}
    shape, findings = read(hub_id, **changes)
    assert findings == []
    config = AutoConfig.for_model(**{**find_known(hub_id).config, **changes})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    theirs = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    fused = {name for name in theirs if ".experts." in name}
    assert fused
    ours = expected_tensors(shape)
    assert {n: s for n, s in ours.items() if ".experts." not in n} == {
        name: size for name, size in theirs.items() if name not in fused
    }
    of_experts = sum(math.prod(size) for name, size in ours.items() if ".experts." in name)
    assert of_experts == sum(math.prod(theirs[name]) for name in fused)


@pytest.mark.parametrize(
    ("hub_id", "change", "code", "words"),
    [
        (V2, {"norm_topk_prob": True}, "GK105", "not scaled to a sum"),
        (V3, {"norm_topk_prob": False}, "GK105", "scaled to a sum"),
        (V2, {"scoring_func": "sigmoid"}, "GK105", "by softmax"),
        (V3, {"scoring_func": "softmax"}, "GK105", "by sigmoid"),
        (V2, {"topk_method": "noaux_tc"}, "GK105", "group_limited_greedy"),
        (V3, {"topk_method": "greedy"}, "GK105", "scores and biases"),
        (V3, {"rope_interleave": False}, "GK105", "in pairs"),
        (V2, {"moe_layer_freq": 2}, "GK105", "after the first ones"),
        (V2, {"num_key_value_heads": 16}, "GK105", "keys of its own"),
        (V2, {"v_head_dim": 256}, "GK105", "no wider than keys"),
        (V2, {"attention_bias": True}, "GK105", "bias"),
        (V3, {"quantization_config": {"quant_method": "fp8"}}, "GK105", "floating point"),
        (V3, {"n_group": 7}, "GK104", "divided into 7 groups"),
        (V3, {"topk_group": 9}, "GK104", "9 groups exceed the 8"),
        (V3, {"topk_group": 1, "num_experts_per_tok": 33}, "GK104", "exceeds the 32 experts"),
        (V3, {"n_group": 256, "topk_group": 8}, "GK104", "no 2 to be scored by"),
        (V3, {"qk_rope_head_dim": 63}, "GK104", "odd"),
        (V3, {"kv_lora_rank": None}, "GK104", "`kv_lora_rank` is missing"),
        (V3, {"routed_scaling_factor": 0}, "GK104", "routed_scaling_factor"),
        (V3, {"num_experts": 8}, "GK104", "`num_experts` = 8 and `n_routed_experts` = 256"),
    ],
)
def test_what_cannot_be_represented_is_refused(
    hub_id: str, change: dict[str, Any], code: str, words: str
) -> None:
    shape, findings = read(hub_id, **change)
    assert shape is None
    assert any(found.startswith(code) and words in found for found in findings), findings


def test_queries_without_a_latent_say_so() -> None:
    known = find_known(V2_LITE)
    config = {key: value for key, value in known.config.items() if key != "q_lora_rank"}
    shape, findings = read_shape(config, "config.json")
    assert shape is None
    assert [finding.code for finding in findings] == ["GK104"]


def test_code_that_is_named_beside_a_model_is_neither_run_nor_refused() -> None:
    """transformers has both families itself; another family's is refused."""
    named = {"auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"}}
    assert read(V3, **named)[1] == []
    assert read("Qwen/Qwen3-0.6B", **named)[0] is None
