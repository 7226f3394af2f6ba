"""Checkpoints that transformers wrote, and what can be wrong with one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open
from tiny_files import write_safetensors

from gkdplan.diagnostics import Diagnostic, Severity
from gkdplan.facts.checkpoint import read_weights
from gkdplan.facts.config import read_shape
from gkdplan.facts.model import WeightFacts
from gkdplan.families.tensors import expected_tensors
from gkdplan.rope import Llama3Scaling
from gkdplan.shape import ModelShape

SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
FAMILIES = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM, {}),
    "llama with head_dim": (
        transformers.LlamaConfig,
        transformers.LlamaForCausalLM,
        {"head_dim": 10},
    ),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM, {}),
    "qwen2 with head_dim": (
        transformers.Qwen2Config,
        transformers.Qwen2ForCausalLM,
        {"head_dim": 16},
    ),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM, {"head_dim": 16}),
}
MOE_FAMILIES = {
    "qwen3_moe": (
        transformers.Qwen3MoeConfig,
        transformers.Qwen3MoeForCausalLM,
        {"head_dim": 16, "moe_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2},
    ),
    "qwen2_moe": (
        transformers.Qwen2MoeConfig,
        transformers.Qwen2MoeForCausalLM,
        {"moe_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2}
        | {"shared_expert_intermediate_size": 40},
    ),
    "mixtral": (
        transformers.MixtralConfig,
        transformers.MixtralForCausalLM,
        {"num_local_experts": 4, "num_experts_per_tok": 2},
    ),
}


def shape_of(directory: Path) -> ModelShape:
    shape, findings = read_shape(json.loads((directory / "config.json").read_text()), "config.json")
    assert findings == ()
    assert shape is not None
    return shape


def read(directory: Path) -> tuple[WeightFacts | None, tuple[Diagnostic, ...]]:
    return read_weights(str(directory), shape_of(directory), "tiny")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_of_transformers_has_the_parameters_of_its_shape(
    tmp_path: Path, family: str, tied: bool
) -> None:
    config_type, model_type, more = FAMILIES[family]
    model = model_type(config_type(**SIZES, **more, tie_word_embeddings=tied)).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    shape = shape_of(tmp_path)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    assert shape.num_parameters == num_parameters
    assert read(tmp_path) == (WeightFacts(1, num_parameters, 2 * num_parameters), ())
    assert expected_tensors(shape) == {
        name: tuple(parameter.shape) for name, parameter in model.named_parameters()
    }


@pytest.mark.parametrize("family", MOE_FAMILIES)
def test_a_checkpoint_with_experts_has_the_parameters_of_its_shape(
    tmp_path: Path, family: str
) -> None:
    """In memory transformers stacks a layer's experts; its files hold them one by one."""
    config_type, model_type, more = MOE_FAMILIES[family]
    model = model_type(config_type(**SIZES, **more)).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    shape = shape_of(tmp_path)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    assert shape.num_parameters == num_parameters
    assert read(tmp_path) == (WeightFacts(1, num_parameters, 2 * num_parameters), ())
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        saved = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    assert expected_tensors(shape) == saved


def test_an_expert_that_is_not_there_is_named(tmp_path: Path) -> None:
    config_type, model_type, more = MOE_FAMILIES["qwen3_moe"]
    model_type(config_type(**SIZES, **more)).save_pretrained(tmp_path)
    tensors = tensors_of(tmp_path)
    lost = "model.layers.1.mlp.experts.3.up_proj.weight"
    del tensors[lost]
    write_safetensors(tmp_path / "model.safetensors", tensors)
    weights, (finding,) = read(tmp_path)
    assert weights is None
    assert finding.code == "GK107"
    assert f"lacks tensors that its config.json asks for: `{lost}`" in finding.message


def test_the_rope_rule_survives_the_way_through_transformers(tmp_path: Path) -> None:
    rule = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
        "rope_theta": 5e5,
    }
    transformers.LlamaConfig(**SIZES, rope_parameters=rule).save_pretrained(tmp_path)
    shape = shape_of(tmp_path)
    assert (shape.rope_theta, shape.rope_scaling) == (5e5, Llama3Scaling(8.0, 1.0, 4.0, 32))


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES))
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    return tmp_path


def shards(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.safetensors"))


def test_a_sharded_checkpoint_is_read_as_one(sharded: Path) -> None:
    weights, findings = read(sharded)
    assert findings == ()
    num_parameters = shape_of(sharded).num_parameters
    assert weights == WeightFacts(len(shards(sharded)), num_parameters, 4 * num_parameters)


def test_a_missing_shard_is_named(sharded: Path) -> None:
    lost = shards(sharded)[1]
    lost.unlink()
    weights, (finding,) = read(sharded)
    assert weights is None
    assert finding.code == "GK108"
    assert f"lacks 1 of the {len(shards(sharded)) + 1} shards" in finding.message
    assert lost.name in finding.message


def test_a_truncated_shard_and_a_missing_one_are_found_at_once(sharded: Path) -> None:
    first, second, *_ = shards(sharded)
    first.unlink()
    second.write_bytes(second.read_bytes()[:-100])
    _, findings = read(sharded)
    assert [finding.code for finding in findings] == ["GK106", "GK108"]
    assert f"tiny/{second.name} is truncated" in findings[0].message


def test_an_index_that_names_a_tensor_which_its_shard_lacks(sharded: Path) -> None:
    index = sharded / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    first = shards(sharded)[0].name
    moved = next(name for name, file in content["weight_map"].items() if file != first)
    content["weight_map"][moved] = first
    index.write_text(json.dumps(content))
    _, (finding,) = read(sharded)
    assert finding.code == "GK108"
    assert f"`{moved}`" in finding.message


@pytest.mark.parametrize(
    "weight_map", [None, {}, {"a": 1}, {"a": "../other.safetensors"}, {"a": ""}, ["a"]]
)
def test_an_index_without_a_map_to_files_beside_it_is_refused(
    sharded: Path, weight_map: Any
) -> None:
    index = sharded / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    _, (finding,) = read(sharded)
    assert finding.code == "GK106"
    assert "weight_map" in finding.message or "not to a file" in finding.message


def test_shards_without_their_index_are_refused(sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").unlink()
    _, (finding,) = read(sharded)
    assert finding.code == "GK108"
    assert "without model.safetensors.index.json" in finding.message


def test_only_pickles_are_refused(model_directory: Path) -> None:
    (model_directory / "model.safetensors").rename(model_directory / "pytorch_model.bin")
    weights, (finding,) = read(model_directory)
    assert weights is None
    assert (finding.code, finding.severity) == ("GK109", Severity.ERROR)
    assert "only safetensors are read" in finding.message


def test_no_weights_are_a_note(model_directory: Path) -> None:
    (model_directory / "model.safetensors").unlink()
    weights, (finding,) = read(model_directory)
    assert weights is None
    assert (finding.code, finding.severity) == ("GK110", Severity.NOTE)


def tensors_of(directory: Path) -> dict[str, tuple[int, ...]]:
    return expected_tensors(shape_of(directory))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model.norm.weight": None}, "lacks tensors that its config.json asks for: `model.norm"),
        ({"lm_head.weight": None}, "`lm_head.weight`"),
        (
            {"model.layers.1.mlp.down_proj.weight": (24, 16)},
            "`model.layers.1.mlp.down_proj.weight [24, 16], not [16, 24]`",
        ),
        ({"model.layers.2.mlp.up_proj.weight": (24, 16)}, "has no place for"),
        ({"model.layers.0.self_attn.q_proj.bias": (16,)}, "has no place for"),
    ],
)
def test_tensors_that_do_not_fit_the_config_are_named(
    model_directory: Path, change: dict[str, tuple[int, ...] | None], words: str
) -> None:
    tensors = tensors_of(model_directory) | change
    kept = {name: shape for name, shape in tensors.items() if shape is not None}
    write_safetensors(model_directory / "model.safetensors", kept)
    weights, (finding,) = read(model_directory)
    assert weights is None
    assert finding.code == "GK107"
    assert words in finding.message


def test_many_missing_tensors_are_counted(model_directory: Path) -> None:
    tensors = tensors_of(model_directory)
    first_layer = {name: shape for name, shape in tensors.items() if ".layers.1." not in name}
    write_safetensors(model_directory / "model.safetensors", first_layer)
    _, (finding,) = read(model_directory)
    assert finding.message.endswith("and 6 more")  # nine tensors a layer, three are named


def test_integer_weights_are_refused(model_directory: Path) -> None:
    write_safetensors(model_directory / "model.safetensors", tensors_of(model_directory), "I32")
    _, (finding,) = read(model_directory)
    assert finding.code == "GK107"
    assert "another dtype than F64, F32, F16, BF16" in finding.message


def test_a_copy_of_a_tied_head_and_rotary_buffers_do_not_count(model_directory: Path) -> None:
    config = json.loads((model_directory / "config.json").read_text())
    (model_directory / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    spare = {"model.layers.0.self_attn.rotary_emb.inv_freq": (2,), "lm_head.weight": (8, 16)}
    write_safetensors(model_directory / "model.safetensors", tensors_of(model_directory) | spare)
    weights, findings = read(model_directory)
    assert findings == ()
    assert weights is not None
    assert weights.num_parameters == shape_of(model_directory).num_parameters
    assert weights.num_bytes == 4 * weights.num_parameters
