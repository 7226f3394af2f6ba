"""Edits of a plan's text: the keys that are asked for, and nothing else."""

import tomllib

import pytest

from gkdplan.spec.edit import edited

WITH_HEADERS = """\
# why this plan
name = "x"

[student]
model = "a"  # the small one

[student.parallel]
tensor = 2

[teacher]
model = "b"

[batch]
micro = 4
"""
VALUES = {
    "student.parallel.tensor": 4,
    "student.recompute.granularity": "selective",
    "student.recompute.modules": ("mlp",),
    "teacher.parallel.tensor": 2,
    "teacher.offload": "cpu",
    "batch.micro": 1,
}
MEANT = {
    "name": "x",
    "student": {
        "model": "a",
        "parallel": {"tensor": 4},
        "recompute": {"granularity": "selective", "modules": ["mlp"]},
    },
    "teacher": {"model": "b", "offload": "cpu", "parallel": {"tensor": 2}},
    "batch": {"micro": 1},
}


def test_comments_and_untouched_lines_stay():
    lines = edited(WITH_HEADERS, VALUES).splitlines()
    assert tomllib.loads("\n".join(lines)) == MEANT
    kept = [line for line in WITH_HEADERS.splitlines() if "tensor" not in line]
    assert [line for line in lines if line in kept and line] == [
        line for line in kept if line and "micro" not in line
    ]
    assert lines[lines.index("[teacher]") - 1] == ""


@pytest.mark.parametrize(
    "text",
    [
        'name = "x"\nstudent.model = "a"\nteacher.model = "b"\nbatch.micro = 4\n',
        'name = "x"\nstudent = {model = "a"}\nteacher = {model = "b"}\nbatch = {micro = 4}\n',
        'name = "x"\n[batch]\nmicro = 4\n[teacher]\nmodel = "b"\nparallel.tensor = 1\n'
        '[student]\nmodel = "a"\nparallel = {tensor = 2}\n',
        'name = "x"\n[student.parallel]\ntensor = 2\n[student]\nmodel = "a"\n'
        '[teacher]\nmodel = "b"\n',
    ],
    ids=["dotted", "inline", "mixed", "a child before its parent"],
)
def test_every_way_to_write_tables_gets_the_same_meaning(text):
    assert tomllib.loads(edited(text, VALUES)) == MEANT


def test_a_key_or_a_whole_table_is_removed():
    text = WITH_HEADERS + "\n[teacher.parallel]\ntensor = 8\n"
    values = {"teacher.parallel": None, "student.parallel.tensor": None, "optimizer.offload": None}
    assert tomllib.loads(edited(text, values)) == {
        "name": "x",
        "student": {"model": "a", "parallel": {}},
        "teacher": {"model": "b"},
        "batch": {"micro": 4},
    }
