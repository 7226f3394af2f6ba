"""Tables of rows: what `check` counts and refuses in CSV, Parquet and datasets saved to disk."""

import csv
import json
import sys
from pathlib import Path

import pyarrow as arrow
import pyarrow.parquet
import pytest
from datasets import Dataset, DatasetDict

from gkdplan.facts.model import DataFile
from gkdplan.facts.rows import read_data_file
from gkdplan.facts.survey import NUM_CHECKED_ROWS

ROWS = [
    {"prompt": "2 + 2?", "completion": "4"},
    {"prompt": "a line\nand another", "completion": 'with "quotes", and commas'},
    {"prompt": "no answer yet", "completion": None},
]
TURNS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
TALK = [{"messages": TURNS}, {"messages": TURNS[:1]}]


def as_csv(path: Path, rows: list[dict]) -> str:
    path = path.with_suffix(".csv")
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        for row in rows:
            cells = {k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()}
            writer.writerow(cells)
    return str(path)


def as_parquet(path: Path, rows: list[dict]) -> str:
    path = path.with_suffix(".parquet")
    pyarrow.parquet.write_table(arrow.Table.from_pylist(rows), path)
    return str(path)


def as_saved(path: Path, rows: list[dict]) -> str:
    Dataset.from_list(rows).save_to_disk(path, num_shards=2)
    return str(path)


WRITERS = {"csv": as_csv, "parquet": as_parquet, "saved": as_saved}
EVERY = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)


def taken(entry: str) -> DataFile:
    file, findings = read_data_file(entry)
    assert findings == ()
    assert file is not None
    return file


def refused(entry: str) -> tuple[str, str]:
    file, (finding,) = read_data_file(entry)
    assert file is None
    return finding.code, finding.message


@EVERY
def test_rows_are_counted_as_in_json(write, tmp_path: Path):
    lines = tmp_path / "x.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    counts = ("num_rows", "num_rows_with_response", "num_rows_with_messages")
    table, listed = taken(write(tmp_path / "x", ROWS)), taken(str(lines))
    assert [getattr(table, c) for c in counts] == [getattr(listed, c) for c in counts]
    assert len(table.longest_prompts) == len(listed.longest_prompts)


@EVERY
def test_conversations_are_rows_too(write, tmp_path: Path):
    file = taken(write(tmp_path / "x", TALK))
    assert (file.num_rows_with_messages, file.num_rows_with_response) == (2, 1)


@EVERY
def test_the_first_rows_may_be_taken(write, tmp_path: Path):
    file = taken(write(tmp_path / "x", ROWS) + "#2")
    assert (file.num_rows, file.num_rows_with_response) == (2, 2)


@EVERY
def test_a_row_that_is_none_is_named_by_its_place(write, tmp_path: Path):
    entry = write(tmp_path / "x", [ROWS[0], {"prompt": None, "completion": "x"}])
    code, message = refused(entry)
    assert code == "GK463"
    place = f"{entry}:3" if write is as_csv else f"{entry}, row 2"
    assert message == f"{place} holds a row that has neither `messages` nor a `prompt` of text"


@EVERY
def test_another_content_is_another_fingerprint(write, tmp_path: Path):
    first = taken(write(tmp_path / "x", ROWS)).fingerprint
    assert taken(write(tmp_path / "y", ROWS[:2])).fingerprint != first


def test_a_large_table_is_counted_without_being_read(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("gkdplan.facts.survey.FULL_CHECK_BYTES", 1000)
    rows = [{"prompt": f"row {number}", "completion": "x"} for number in range(1500)]
    for write in WRITERS.values():
        file, (note,) = read_data_file(write(tmp_path / write.__name__, rows))
        assert note.code == "GK466"
        assert f"first {NUM_CHECKED_ROWS:,} rows" in note.message
        assert file.num_rows == file.num_rows_with_response == 1500


def test_lines_of_csv_are_those_of_the_file(tmp_path: Path):
    path = tmp_path / "x.csv"
    path.write_text('prompt,completion\n"two\nlines",x\nonly one\n')
    code, message = refused(str(path))
    assert (code, message) == ("GK463", f"{path}:4 has 1 cells under 2 columns")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "has no first line that names its columns, each once"),
        ("prompt,prompt\na,b\n", "has no first line that names its columns, each once"),
        ('prompt\n"open', "is not CSV in line 2: unexpected end of data"),
        (b"prompt\n\xff\n", "is not UTF-8 text"),
    ],
)
def test_what_is_no_csv_is_refused(text: str | bytes, reason: str, tmp_path: Path):
    path = tmp_path / "x.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert refused(str(path)) == ("GK460", f"the data file `{path}` {reason}")


def test_messages_of_a_csv_are_json(tmp_path: Path):
    path = tmp_path / "x.csv"
    path.write_text("messages\nhello\n")
    assert refused(str(path)) == ("GK463", f"{path}:2 has a cell of `messages` that is not JSON")


def test_damaged_parquet_is_refused(tmp_path: Path):
    entry = as_parquet(tmp_path / "x", ROWS)
    Path(entry).write_bytes(Path(entry).read_bytes()[:100])
    code, message = refused(entry)
    assert code == "GK460"
    assert "is not Parquet" in message


def test_splits_are_named(tmp_path: Path):
    data = Dataset.from_list(ROWS)
    DatasetDict({"train": data, "test": data}).save_to_disk(tmp_path / "both")
    code, message = refused(str(tmp_path / "both"))
    assert code == "GK460"
    assert f'holds several splits: name one, "{tmp_path}/both/train" or' in message
    assert taken(f"{tmp_path}/both/train").num_rows == 3


def test_another_directory_is_no_dataset(tmp_path: Path):
    _, message = refused(str(tmp_path))
    assert message.endswith("is a directory, and none that `save_to_disk` wrote")


def test_files_of_a_dataset_lie_inside_it(tmp_path: Path):
    entry = as_saved(tmp_path / "x", ROWS)
    state = Path(entry, "state.json")
    state.write_text(state.read_text().replace("data-00000", "../data-00000"))
    _, message = refused(entry)
    assert message.endswith("is a directory, and none that `save_to_disk` wrote")


def test_what_reads_it_is_named_where_it_is_not_installed(tmp_path: Path, monkeypatch):
    entry = as_parquet(tmp_path / "x", ROWS)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    _, (finding,) = read_data_file(entry)
    assert finding.code == "GK469"
    assert "pip install 'gkdplan[data]'" in finding.help[0]
