"""A vllm engine that sees: what its eyes weigh, how many images it takes, and what it divides."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
from planner_facts import TINY, data_file, facts, plan
from test_planner_eyes import CLIP, INTERN, QWEN, QWEN3

from gkdplan.planner.compiler import compile_plan
from gkdplan.planner.engine import server_limits
from gkdplan.planner.memory.engine import EngineModel, weight_bytes
from gkdplan.planner.memory.engine_vision import eye_weight_bytes, seeing_bytes, waiting_bytes
from gkdplan.runplan.sampling import VllmPlan
from gkdplan.runtime import serving
from gkdplan.vocab import Dtype, Role

WIDE = replace(TINY, num_attention_heads=3, num_kv_heads=1, head_dim=32)
ENGINE = VllmPlan(1, 0.5, 0, 64, 8, 100, 0, 128, 64, 2**20, max_images=2, image_tokens=16)
"""Of 8 sequences at one time, and of 100 tokens a forward."""


def model(vision, tensor=1):
    return EngineModel(replace(TINY, vision=vision), Dtype.FP32, tensor)


@pytest.mark.parametrize(
    ("tensor", "layer", "projector"),
    [
        # four matrices with biases, two norms, two matrices with biases; two matrices with biases
        (1, 4 * (256 + 16) + 4 * 16 + (320 + 20) + (320 + 16), (1536 + 96) + (9216 + 96)),
        # halves, but for norms and the biases of what is summed over ranks
        (2, 3 * 136 + (128 + 16) + 4 * 16 + 170 + (160 + 16), 816 + (4608 + 96)),
    ],
)
def test_of_clip_the_layers_whose_states_are_taken_are_made(tensor, layer, projector):
    # one of two layers; 16 patches of 3 x 4 x 4 and a class token stand in 17 places; a norm
    whole = 16 + 16 * 48 + 17 * 16 + 2 * 16
    found = eye_weight_bytes(model(CLIP, tensor), ENGINE)
    assert found == 4 * (whole + layer + projector)


def test_a_tower_that_speaks_to_layers_keeps_rows_for_a_forwards_tokens():
    silent = replace(QWEN3, deep_layers=())
    difference = eye_weight_bytes(model(QWEN3), ENGINE) - eye_weight_bytes(model(silent), ENGINE)
    # of each of two layers: a merger with its norm over 64, and 100 rows of the decoder's width
    merger = 2 * 64 + (64 * 64 + 64) + (64 * 96 + 96)
    assert difference == 4 * 2 * (merger + 100 * 96)


@pytest.mark.parametrize(("vision", "more"), [(QWEN, 3), (QWEN3, 0), (CLIP, 0), (INTERN, 0)])
def test_angles_are_of_as_many_positions_as_vllm_makes(vision, more):
    difference = weight_bytes(model(vision)) - weight_bytes(model(None))
    assert difference == more * TINY.max_position_embeddings * TINY.head_dim * 4


def test_images_are_looked_at_and_kept_as_many_as_a_forward_has_tokens():
    few, many = (replace(ENGINE, prompt_image_tokens=number) for number in (4, 32))
    forward = 10**9
    # 8 prompts of 4 tokens, or 100 tokens: 3 vectors each, one for the embedding and two for layers
    assert seeing_bytes(model(QWEN3), few, forward) == forward + 8 * 4 * 3 * 96 * 4
    assert seeing_bytes(model(QWEN3), many, forward) == forward + 100 * 3 * 96 * 4
    looking = seeing_bytes(model(QWEN), many, 0) - 100 * 96 * 4
    pixels = 100 * 4 * 96 * 4
    assert looking > pixels
    assert waiting_bytes(model(QWEN), many, 5) == 5 * 32 * 4 * 96 * 4


def test_one_image_may_be_larger_than_a_forward():
    assert replace(ENGINE, image_tokens=160).encoder_tokens == 160
    assert replace(ENGINE, max_images=0).encoder_tokens == 0


def compiled(shape, most_images=2, **tables):
    known = facts(shape, shape, train=(data_file(num_rows_with_images=3, most_images=most_images),))
    given = {"distill": {"lmbda": 1.0}, **tables}
    given["generation"] = {"engine": "vllm", **tables.get("generation", {})}
    return compile_plan(plan(**given), known, "test")


def test_an_engine_takes_as_many_images_as_rows_show_of_as_many_tokens_as_prompts_have():
    of_qwen = compiled(replace(WIDE, vision=QWEN)).run_plan.sampling.vllm
    assert (of_qwen.max_images, of_qwen.image_tokens, of_qwen.prompt_image_tokens) == (2, 32, 32)
    of_clip = compiled(replace(WIDE, vision=CLIP)).run_plan.sampling.vllm
    assert (of_clip.max_images, of_clip.image_tokens, of_clip.prompt_image_tokens) == (2, 16, 32)
    of_no_rows = compiled(replace(WIDE, vision=CLIP), most_images=0).run_plan.sampling.vllm
    assert (of_no_rows.max_images, of_no_rows.prompt_image_tokens) == (1, 16)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_heads": 1}, "the student has 1 heads in its tower"),
        ({"ffn_hidden_size": 21}, "the student has 21 ffn columns in its tower"),
    ],
)
def test_an_engine_divides_the_tower(change, words):
    shape = replace(WIDE, num_attention_heads=4, num_kv_heads=2, vision=replace(CLIP, **change))
    tables = {"cluster": {"devices_per_node": 2}, "generation": {"tensor": 2}}
    found = [d for d in compiled(shape, **tables).diagnostics if d.code == "GK240"]
    assert [words in d.message for d in found] == [True]
    assert found[0].help == ("set `generation.tensor` to 1",)


def test_of_internvl_the_mlps_are_divided_alone():
    matrices = 2 * (16 * INTERN.ffn_hidden_size) * INTERN.num_layers
    biases = INTERN.ffn_hidden_size * INTERN.num_layers
    whole, half = (eye_weight_bytes(model(INTERN, tensor), ENGINE) for tensor in (1, 2))
    assert whole - half == 4 * (matrices + biases) // 2
    one_head = replace(WIDE, num_attention_heads=4, vision=replace(INTERN, num_heads=1))
    tables = {"cluster": {"devices_per_node": 2}, "generation": {"tensor": 2}}
    assert "GK240" not in [d.code for d in compiled(one_head, **tables).diagnostics]


def test_a_server_takes_as_many_images_as_one_on_the_ranks():
    served = {"mode": "server", "server_url": "http://127.0.0.1:8000"}
    shape = replace(WIDE, vision=CLIP)
    run_plan = compiled(shape, generation=served).run_plan
    limits = server_limits(plan(generation={"engine": "vllm", **served}), run_plan, Role.STUDENT)
    assert (limits.max_images, limits.image_tokens) == (2, 16)
    command = [
        *serving.command(run_plan, Role.STUDENT, "http://127.0.0.1:8000", limits, is_guarded=True)
    ]
    options = dict(pairwise(command))
    assert json.loads(options["--limit-mm-per-prompt"]) == {"image": 2, "video": 0}
    assert options["--allowed-media-domains"].endswith(".invalid")
    assert "--no-mm-device-do-normalize" in command
    assert "--allowed-local-media-path" not in command
