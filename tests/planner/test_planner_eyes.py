"""Eyes that cut an image by its size: which two models go together, and what it may weigh."""

from dataclasses import replace

import pytest
from planner_facts import TINY, data_file, facts, plan

from gkdplan.planner.compiler import compile_plan
from gkdplan.planner.drafting import draft
from gkdplan.planner.memory.rank import rank_of_class
from gkdplan.report.outline import labelled
from gkdplan.runplan.diff import compare, course
from gkdplan.vision import ClipVision, InternVision, Qwen3Vision, QwenVision
from gkdplan.vocab import Phase

QWEN = QwenVision(
    hidden_size=16,
    num_layers=2,
    num_heads=2,
    ffn_hidden_size=20,
    patch_size=4,
    temporal_patch_size=2,
    merge_size=2,
    window_size=16,
    full_layers=(1,),
    output_size=96,
    rotary_sections=(2, 3, 3),
    image_token_id=7,
)
SEEING = replace(TINY, vision=QWEN)
QWEN3 = Qwen3Vision(
    hidden_size=16,
    num_layers=4,
    num_heads=2,
    ffn_hidden_size=20,
    patch_size=4,
    temporal_patch_size=2,
    merge_size=2,
    output_size=96,
    rotary_sections=(4, 2, 2),
    image_token_id=7,
    num_positions=25,
    deep_layers=(0, 1),
)
CLIP = ClipVision(16, 2, 2, 20, 16, 4, "gelu", 1e-5, 96, 7, -2, False, True)

INTERN = InternVision(
    hidden_size=16,
    num_layers=2,
    num_heads=2,
    ffn_hidden_size=20,
    image_size=24,
    patch_size=4,
    activation="gelu",
    norm_eps=1e-6,
    output_size=96,
    image_token_id=7,
    merge_size=2,
    qkv_bias=True,
    qk_norm=False,
    rms_norms=False,
    final_norm=False,
)


def compiled(student, teacher, **of_rows):
    return compile_plan(plan(), facts(student, teacher, train=(data_file(**of_rows),)), "test")


def temporaries(shape, **of_rows):
    rank_class = compiled(shape, shape, **of_rows).run_plan.ledger.classes[0]
    return rank_class.phases[Phase.TEACHER].rows["temporaries"]


def test_towers_may_differ_in_all_but_the_cut():
    other = replace(QWEN, hidden_size=24, num_layers=3, window_size=8, rotary_sections=(4, 2, 2))
    compilation = compiled(SEEING, replace(TINY, num_layers=3, vision=other))
    assert not [d for d in compilation.diagnostics if d.severity == "error"]
    assert compilation.run_plan is not None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"patch_size": 8}, "the student has 4 pixels a side of a patch, the teacher 8"),
        ({"merge_size": 1}, "the student has 2 patches a side of an image's token, the teacher 1"),
        ({"temporal_patch_size": 1}, "the student has 2 frames in a patch, the teacher 1"),
        ({"image_token_id": 8}, "the student has 7 as the id of the image token, the teacher 8"),
    ],
)
def test_an_image_is_cut_alike_for_both(change, words):
    other = replace(TINY, vision=replace(QWEN, **change))
    (found,) = [d for d in compiled(SEEING, other).diagnostics if d.code == "GK131"]
    assert found.message == words


def test_eyes_of_another_kind_are_refused():
    for one, other in ((QWEN, CLIP), (CLIP, QWEN), (QWEN, QWEN3), (CLIP, INTERN)):
        models = replace(TINY, vision=one), replace(TINY, vision=other)
        (found,) = [d for d in compiled(*models).diagnostics if d.code == "GK131"]
        assert "by different rules" in found.message


def test_what_waits_of_images_is_as_much_as_a_prompt_has_room_for():
    """8 rows of 64 tokens, 32 of a prompt that images may fill: 4 patches a token of 3 x 2 x 4 x 4
    float32 numbers, and for each token the place and number of its feature, two int64. Every token
    has three int64 positions. Both models have float32 angles of 16 coordinates for each of the 64
    tokens of the second row of a micro-batch too."""
    of_images = 8 * 32 * (4 * 96 * 4 + 2 * 8)
    of_positions = 8 * 64 * 3 * 8
    of_angles = 2 * 64 * 16 * 4
    seeing = temporaries(SEEING, num_rows_with_images=3, most_images=1)
    assert seeing - temporaries(TINY) == of_images + of_positions + of_angles


def test_tiles_wait_as_far_as_a_prompt_has_room_for_them():
    """8 rows of 32 tokens of a prompt, 3 whole tiles of 9 tokens: of each 3 x 24 x 24 float32, and
    for each token the place and number of its feature, two int64."""
    seeing = replace(TINY, vision=INTERN)
    of_images = 8 * 3 * (3 * 24 * 24 * 4 + 9 * 2 * 8)
    assert (
        temporaries(seeing, num_rows_with_images=3, most_images=1) - temporaries(TINY) == of_images
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_size": 32}, "the student has 9 tokens a tile of an image, the teacher 16"),
        ({"patch_size": 2, "merge_size": 4}, None),
        ({"image_size": 48, "merge_size": 4}, "the student has 24 pixels a side of a tile"),
        ({"image_token_id": 8}, "the student has 7 as the id of the image token, the teacher 8"),
    ],
)
def test_tiles_are_cut_alike_for_both(change, words):
    models = (replace(TINY, vision=INTERN), replace(TINY, vision=replace(INTERN, **change)))
    found = [d.message for d in compiled(*models).diagnostics if d.code == "GK131"]
    assert (words is None) == (not found)
    assert all(words in message for message in found[:1])


def test_where_no_row_shows_an_image_only_positions_wait():
    assert temporaries(SEEING) - temporaries(TINY) == 8 * 64 * 3 * 8 + 2 * 64 * 16 * 4


def test_a_tower_that_speaks_to_layers_of_a_later_stage_is_refused():
    speaking = replace(TINY, vision=QWEN3)
    tables = {"student": {"parallel": {"pipeline": 2}}, "cluster": {"devices_per_node": 2}}
    compilation = compile_plan(plan(**tables), facts(speaking, speaking), "test")
    found = [d for d in compilation.diagnostics if d.code == "GK590"]
    assert "student.parallel.pipeline" in [d.path for d in found]
    assert any("speaks to 2 layers, the first stage has 1" in d.message for d in found)
    assert compilation.run_plan is None


def test_what_a_tower_says_is_kept_where_layers_are_made_again():
    """Of two layers, 96 numbers for each token of an image: here all 64 tokens of a prompt."""
    speaking = replace(TINY, num_layers=4, vision=QWEN3)
    again = {"recompute": {"granularity": "full", "method": "uniform", "num_layers": 1}}
    seen = []
    for shape in (speaking, replace(speaking, vision=replace(QWEN3, deep_layers=()))):
        known = facts(shape, shape, train=(data_file(**SHOWN),))
        decided = draft(plan(student=again), known)
        seen.append(rank_of_class(decided, decided.layout.classes[0]).student)
    of_row = seen[0].seen_of_row
    assert seen[0].seen_bytes - seen[1].seen_bytes == seen[0].batch.rows * of_row * 2 * 96 * 4
    assert seen[0].said_bytes == 0


SHOWN = {"num_rows_with_images": 3, "most_images": 1}


@pytest.mark.parametrize(
    ("student", "rows", "words"),
    [
        ({}, SHOWN, "decoder, tower and projector stay"),
        ({"freeze_vision": True, "freeze_projector": True}, SHOWN, "decoder, tower and projector"),
        ({"tuning": "lora", "freeze_projector": False}, SHOWN, "adapters are of a decoder"),
        ({"freeze_vision": False}, {}, "no checked row shows an image"),
    ],
)
def test_a_student_of_which_nothing_learns_is_refused(student, rows, words):
    tables = {"student": {"freeze_language": True, **student}}
    compilation = compile_plan(
        plan(**tables), facts(SEEING, SEEING, train=(data_file(**rows),)), "test"
    )
    (found,) = [d for d in compilation.diagnostics if d.code == "GK132"]
    assert words in found.message
    assert found.severity == "error"
    assert found.help


@pytest.mark.parametrize(
    ("student", "words"),
    [
        ({}, "decoder"),
        ({"freeze_projector": False}, "projector, decoder"),
        ({"freeze_vision": False, "freeze_language": True}, "tower"),
        ({"freeze_vision": False, "tuning": "lora"}, "tower, adapters of the decoder"),
    ],
)
def test_the_outline_says_what_learns(student, words):
    compilation = compile_plan(
        plan(student=student), facts(SEEING, SEEING, train=(data_file(**SHOWN),)), "test"
    )
    assert dict(labelled(compilation.run_plan))["learns"] == words


def test_eyes_that_learn_alone_have_gradients_and_a_state_of_theirs_alone():
    """On two stages the last has none. CLIP's two layers of two are read where -1 is the state."""
    seeing = replace(TINY, vision=replace(CLIP, feature_layer=-1))
    student = {"freeze_vision": False, "freeze_projector": False, "freeze_language": True}
    of_stages = compile_plan(
        plan(
            student={**student, "parallel": {"pipeline": 2}},
            cluster={"devices_per_node": 2},
            optimizer={"distributed": False},
        ),
        facts(seeing, seeing, train=(data_file(**SHOWN),)),
        "test",
    ).run_plan.ledger.classes
    first, last = (of_stage.phases[Phase.STUDENT].rows for of_stage in of_stages)
    norm_after_all = 2 * 16
    assert first["student grads"] == 4 * (CLIP.num_parameters - norm_after_all)
    assert first["student main + Adam"] == 2 * first["student grads"]
    assert "student grads" not in last
    assert "student main + Adam" not in last


def test_a_tower_that_learns_has_gradients_and_a_state_of_what_is_read():
    """CLIP's second layer of two is not read where the states before it are taken: 4 x 16 x 17 of
    attention, 2 x 16 x 20 + 36 of the MLP, 4 x 16 of norms, and 2 x 16 of the norm after it."""
    seeing = replace(TINY, vision=replace(CLIP, feature_layer=-2))
    unread = 4 * 16 * 17 + 2 * 16 * 20 + 36 + 4 * 16 + 2 * 16
    projector = 16 * 96 + 96 + 96 * 96 + 96
    grads = [
        compile_plan(
            plan(student=student, optimizer={"distributed": False}),
            facts(seeing, seeing, train=(data_file(**SHOWN),)),
            "test",
        )
        .run_plan.ledger.classes[0]
        .phases[Phase.STUDENT]
        .rows["student grads"]
        for student in ({}, {"freeze_vision": False})
    ]
    assert grads[1] - grads[0] == 4 * (CLIP.num_parameters - unread - projector)


def test_a_tower_may_speak_to_all_layers_of_the_first_stage():
    speaking = replace(TINY, num_layers=4, vision=QWEN3)
    tables = {"student": {"parallel": {"pipeline": 2}}, "cluster": {"devices_per_node": 2}}
    compilation = compile_plan(plan(**tables), facts(speaking, speaking), "test")
    assert compilation.run_plan is not None


def test_no_pipeline_of_a_tower_that_speaks_makes_compiling_raise():
    speaking = replace(TINY, vision=QWEN3)
    parallel = {"pipeline": 10**9, "virtual_pipeline": 10**9}
    compilation = compile_plan(
        plan(student={"parallel": parallel}), facts(speaking, speaking), "test"
    )
    assert compilation.run_plan is None


def test_hosts_of_images_are_said_and_are_no_part_of_what_a_run_is():
    """Rows name what they show; from which hosts a run may take it decides nothing of it."""
    before, after = (
        compile_plan(
            plan(data=hosts), facts(SEEING, SEEING, train=(data_file(**SHOWN),)), "test"
        ).run_plan
        for hosts in ({}, {"image_hosts": ("a.org", "b.org:8000")})
    )
    assert "fetched" not in dict(labelled(before))["data"]
    words = "images are fetched from a.org, b.org:8000"
    assert dict(labelled(after))["data"].endswith(words)
    (change,) = compare(before, after)
    assert (change.path, change.label, change.objective) == ("data.pictures.hosts", "safe", False)
    assert before.fingerprint == after.fingerprint
    assert course(before) == course(after)


def test_hosts_of_images_of_a_text_model_are_refused():
    compilation = compile_plan(plan(data={"image_hosts": ("a.org",)}), facts(TINY, TINY), "test")
    assert [d.path for d in compilation.diagnostics if d.code == "GK130"] == ["data.image_hosts"]
