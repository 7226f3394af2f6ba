"""What a data file's rows say, and what is refused before a token is made."""

import csv
import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pyarrow.parquet
import pytest
from datasets import Dataset

from gkdplan.diagnostics import UserError
from gkdplan.rowfiles import open_rows
from gkdplan.runplan.model import DataSource
from gkdplan.runtime.data.rows import TextRow, TurnsRow, read_items, read_row

USER = {"role": "user", "content": "how are you?"}
ASSISTANT = {"role": "assistant", "content": "well"}


def read_rows(source, key, *teachers):
    return [read_row(item, key, *teachers) for item in read_items(source, key)]


def test_the_last_assistant_turn_is_the_answer(data_file):
    source = data_file({"messages": [USER, ASSISTANT, USER, ASSISTANT]})
    (row,) = read_rows(source, "data.train[0]")
    assert row == TurnsRow(f"{source.path}:1", (USER, ASSISTANT, USER), ASSISTANT)


def test_a_conversation_that_ends_with_the_user_has_no_answer(data_file):
    (row,) = read_rows(data_file({"messages": [USER, ASSISTANT, USER]}), "data.train[0]")
    assert row.answer is None
    assert row.turns == (USER, ASSISTANT, USER)


def test_prompt_rows_with_and_without_a_completion(data_file):
    source = data_file({"prompt": "a", "completion": " b"}, {"prompt": "c"})
    assert read_rows(source, "data.train[0]") == [
        TextRow(f"{source.path}:1", "a", " b"),
        TextRow(f"{source.path}:2", "c", None),
    ]


def test_blank_lines_are_no_rows_but_count_as_lines(data_file):
    source = data_file('{"prompt": "a"}', "", "  ", '{"prompt": "b"}')
    locations = [row.location for row in read_rows(source, "data.train[0]")]
    assert locations == [f"{source.path}:1", f"{source.path}:4"]


def test_a_line_separator_inside_a_text_does_not_end_the_row(data_file):
    source = data_file('{"prompt": "one\u2028two\u0085three"}')
    (row,) = read_rows(source, "data.train[0]")
    assert row.prompt == "one\u2028two\u0085three"


def test_a_json_file_holds_one_list(data_file):
    source = data_file(json.dumps([{"prompt": "a"}, {"prompt": "b"}]), name="rows.json")
    assert [row.prompt for row in read_rows(source, "data.train[0]")] == ["a", "b"]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_a_limit_takes_the_first_rows_and_looks_no_further(data_file, name):
    rows = [{"prompt": "a"}, {"prompt": "b"}, {"unusable": 1}]
    lines = rows if name == "rows.jsonl" else [json.dumps(rows)]
    source = data_file(*lines, name=name, limit=2)
    assert [row.prompt for row in read_rows(source, "data.train[0]")] == ["a", "b"]


@pytest.mark.parametrize(
    "row",
    [
        "{not json",
        "[1, 2]",
        {"text": "a"},
        {"prompt": 3},
        {"prompt": "half a pair \ud800"},
        {"prompt": "a", "completion": "\udfff"},
        {"messages": [{"role": "user", "content": "\ud800"}, ASSISTANT]},
        {"prompt": "a", "completion": ["b"]},
        {"messages": []},
        {"messages": "hello"},
        {"messages": [ASSISTANT]},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "user", "content": None}, ASSISTANT]},
    ],
)
def test_a_row_of_no_known_form_is_refused_with_its_line(data_file, row):
    source = data_file({"prompt": "a"}, row)
    with pytest.raises(UserError) as caught:
        read_rows(source, "data.train[0]")
    (finding,) = caught.value.diagnostics
    assert finding.code == "GK472"
    assert finding.path == "data.train[0]"
    assert f"{source.path}:2" in finding.message


def test_a_file_of_one_json_object_is_refused(data_file):
    with pytest.raises(UserError, match="GK471"):
        read_rows(data_file('{"prompt": "a"}', name="rows.json"), "data.train[0]")


def test_bytes_that_are_not_utf8_are_refused(data_file):
    source = data_file({"prompt": "a"})
    Path(source.path).write_bytes(b'{"prompt": "\xff"}\n')
    source = replace(source, fingerprint=sha256(Path(source.path).read_bytes()).hexdigest())
    with pytest.raises(UserError, match="GK472"):
        read_rows(source, "data.train[0]")


def test_a_file_that_changed_by_one_byte_is_refused(data_file):
    source = data_file({"prompt": "a"})
    assert len(read_rows(source, "data.train[0]")) == 1
    Path(source.path).write_text('{"prompt": "b"}\n')
    with pytest.raises(UserError, match="GK470"):
        read_rows(source, "data.train[0]")


def test_a_file_that_is_gone_is_refused(data_file):
    source = replace(data_file({"prompt": "a"}), path="no/such/rows.jsonl")
    with pytest.raises(UserError, match=r"GK471.*no such file"):
        read_rows(source, "data.train[0]")


def test_a_row_names_its_teacher(data_file) -> None:
    source = data_file({"prompt": "a", "domain": "maths"}, {"messages": [USER], "domain": "code"})
    rows = read_rows(source, "data.train[0]", "domain", ("maths", "code"))
    assert [row.teacher for row in rows] == ["maths", "code"]
    assert [row.teacher for row in read_rows(source, "data.train[0]")] == [None, None]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "a", "domain": "biology"}, 'has "biology" as its `domain`'),
        ({"prompt": "a", "domain": 1}, "has 1 as its `domain`"),
        ({"prompt": "a", "domain": ["maths"]}, 'has ["maths"] as its `domain`'),
        ({"prompt": "a"}, "has no `domain`"),
    ],
)
def test_a_row_that_names_no_teacher_is_named(data_file, row, says) -> None:
    source = data_file({"prompt": "b", "domain": "maths"}, row)
    with pytest.raises(UserError) as refusal:
        read_rows(source, "data.train[0]", "domain", ("maths", "code"))
    (found,) = refusal.value.diagnostics
    assert found.code == "GK484"
    assert f"{source.path}:2" in found.message
    assert says in found.message
    assert found.notes == ("known values: maths, code",)


@pytest.mark.parametrize("kind", ["csv", "parquet", "saved"])
def test_a_table_has_the_rows_of_json(kind, data_file, tmp_path):
    rows = [
        {"prompt": "a, b", "completion": ' "c"\nd'},
        {"messages": [USER, ASSISTANT]},
        {"prompt": "e"},
    ]
    columns = [{"prompt": None, "completion": None, "messages": None} | row for row in rows]
    path = tmp_path / f"table.{kind}"
    match kind:
        case "csv":
            cells = ([_cell(row[name]) for name in columns[0]] for row in columns)
            with open(path, "w", newline="") as file:
                csv.writer(file).writerows([columns[0], *cells])
        case "parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(columns), path)
        case "saved":
            Dataset.from_list(columns).save_to_disk(path)
    source = DataSource(str(path), None, 3, open_rows(str(path)).identity().fingerprint)
    of_table, of_json = (read_rows(s, "data.train[0]") for s in (source, data_file(*rows)))
    assert [replace(row, location="") for row in of_table] == [
        replace(row, location="") for row in of_json
    ]
    ends = (":2", ":4", ":5") if kind == "csv" else (", row 1", ", row 2", ", row 3")
    assert [row.location for row in of_table] == [f"{path}{end}" for end in ends]


def test_a_table_that_is_no_longer_there_is_said(tmp_path):
    with pytest.raises(UserError) as refusal:
        read_rows(DataSource(str(tmp_path / "x.csv"), None, 3, "0"), "data.train[0]")
    (finding,) = refusal.value.diagnostics
    assert finding.code == "GK471"


def _cell(value):
    return json.dumps(value) if isinstance(value, list) else value
