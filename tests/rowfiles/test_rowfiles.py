"""Every format gives the same rows, a piece at a time, and says where what is wrong stands."""

import csv
import json
import tracemalloc
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from gkdplan.facts.rows import read_data_file
from gkdplan.json_file import UnreadableError
from gkdplan.rowfiles import ForeignFormatError, lists, open_rows, row_file

TURNS = [{"role": "user", "content": 'one, "two"\nthree'}, {"role": "assistant", "content": "é"}]
ROWS = [
    {"messages": TURNS},
    {"prompt": "a,b\nc", "completion": "d"},
    {"prompt": "e"},
]


def write(path: Path, rows: list[dict]) -> str:
    match path.suffix:
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n\n" for row in rows))
        case ".json":
            path.write_text(json.dumps(rows, indent=1))
        case ".csv":
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, ["prompt", "messages", "completion"])
                writer.writeheader()
                for row in rows:
                    turns = row.get("messages")
                    writer.writerow({**row, "messages": turns and json.dumps(turns)})
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(_all_keys(rows)), path, row_group_size=2)
        case ".arrow":
            table = pa.Table.from_pylist(_all_keys(rows))
            with pa.ipc.new_file(str(path), table.schema) as file:
                file.write_table(table, max_chunksize=2)
        case "":
            Dataset.from_list(_all_keys(rows)).save_to_disk(str(path), num_shards=2)
    return str(path)


def _all_keys(rows: list[dict]) -> list[dict]:
    keys = {key: None for row in rows for key in row}
    return [dict.fromkeys(keys) | row for row in rows]


NAMES = ["x.jsonl", "x.json", "x.csv", "x.parquet", "x.arrow", "saved"]


@pytest.mark.parametrize("name", NAMES)
def test_every_format_gives_the_rows_that_were_written(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, ROWS)
    found = list(open_rows(path).rows())
    assert [row for _, row in found] == ROWS
    assert all(place.startswith(path) for place, _ in found)
    assert open_rows(path).identity().num_rows == 3
    file, findings = read_data_file(f"{path}#2")
    assert findings == ()
    assert file is not None
    assert (file.num_rows, file.num_rows_with_response, file.num_rows_with_messages) == (2, 2, 1)


@pytest.mark.parametrize("name", NAMES)
def test_the_fingerprint_is_of_the_whole(tmp_path: Path, name: str) -> None:
    path = Path(write(tmp_path / name, ROWS))
    before = open_rows(str(path)).identity().fingerprint
    if path.is_file():
        assert before == sha256(path.read_bytes()).hexdigest()
    write(tmp_path / f"other{path.suffix}", [*ROWS[:2], {"prompt": "f"}])
    assert open_rows(str(tmp_path / f"other{path.suffix}")).identity().fingerprint != before


def test_places_are_lines_where_a_format_has_lines(tmp_path: Path) -> None:
    places = {
        "x.jsonl": [":1", ":3", ":5"],
        "x.csv": [":2", ":3", ":5"],
        "x.json": [", row 1", ", row 2", ", row 3"],
        "saved": [", row 1", ", row 2", ", row 3"],
    }
    for name, expected in places.items():
        path = write(tmp_path / name, ROWS)
        assert [place.removeprefix(path) for place, _ in open_rows(path).rows()] == expected


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.dictionaries(st.text(max_size=4), st.integers() | st.text() | st.none())
        | st.integers(10**6)
    ),
    indent=st.sampled_from([None, 1]),
    ascii=st.booleans(),
    chunk=st.integers(1, 40),
)
def test_a_list_is_read_alike_however_it_is_cut(tmp_path_factory, rows, indent, ascii, chunk):
    path = tmp_path_factory.mktemp("list") / "x.json"
    path.write_text(json.dumps(rows, indent=indent, ensure_ascii=ascii), errors="surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_file, "CHUNK_BYTES", chunk)
        assert [row for _, row in lists.OneList(str(path)).rows()] == json.loads(path.read_text())


@pytest.mark.parametrize("chunk", [1, 7, 4096])
@pytest.mark.parametrize(
    "text",
    ['[{"a": 1},\n {"b" 2}]', '[{"a": 1}\n {"b": 2}]', "[1, 2", "[1,\n2]\n x", "[1,]", "[tru, 1]"],
)
def test_what_is_no_list_is_placed_as_json_places_it(tmp_path, monkeypatch, text, chunk) -> None:
    monkeypatch.setattr(row_file, "CHUNK_BYTES", chunk)
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(json.JSONDecodeError) as known:
        json.loads(text)
    with pytest.raises(UnreadableError) as refusal:
        list(open_rows(str(path)).rows())
    place = f"line {known.value.lineno}, column {known.value.colno}"
    assert place in str(refusal.value) or "[1,]" in text


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.json", b'["\xff"]', "is not UTF-8"),
        ("x.json", b"[" * 100_000, "nested too deeply"),
        ("x.json", b"[" + b"9" * 5000 + b"]", "too many digits"),
        ("x.json", b"[NaN]", "NaN"),
        ("x.csv", b'prompt\n"a" b\n', "is not CSV in line 2"),
        ("x.parquet", b"PAR1", "is not Parquet"),
        ("x.arrow", b"ARROW1 and more", "is not Arrow"),
        ("x.arrow", b"no arrow at all", "is not Arrow"),
        ("x.arrow", b"", "is not Arrow"),
    ],
)
def test_a_file_that_is_not_in_its_format_is_refused(tmp_path, name, content, says) -> None:
    (tmp_path / name).write_bytes(content)
    file, (finding,) = read_data_file(str(tmp_path / name))
    assert file is None
    assert finding.code == "GK460"
    assert says in finding.message


def test_a_row_without_end_is_not_held_in_memory(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(row_file, "MAX_ROW_BYTES", 60)
    monkeypatch.setattr(row_file, "CHUNK_BYTES", 8)
    (tmp_path / "x.json").write_text('[{"a": 1},\n{"a": "' + "q" * 400 + '"}]')
    with pytest.raises(UnreadableError, match="more than 60 bytes in the row that begins on line"):
        list(open_rows(str(tmp_path / "x.json")).rows())


def test_code_beside_rows_is_never_run(tmp_path: Path) -> None:
    (tmp_path / "clone.py").write_text("raise SystemExit('code was run')")
    write(tmp_path / "x.jsonl", ROWS)
    assert read_data_file(str(tmp_path))[1][0].code == "GK460"
    with pytest.raises(ForeignFormatError, match="no code"):
        open_rows(str(tmp_path / "clone.py"))


@pytest.mark.parametrize(
    "state",
    [
        {"_data_files": [{"filename": "../x.arrow"}]},
        {"_data_files": [{"filename": "/x.arrow"}]},
        {"_data_files": [{"filename": "x.pkl"}]},
        {"_data_files": ["x.arrow"]},
        {"_data_files": [], "_indices_data_files": [{"filename": "x.arrow"}]},
        {},
    ],
)
def test_a_folder_reads_no_file_outside_of_it(tmp_path: Path, state: dict) -> None:
    (tmp_path / "state.json").write_text(json.dumps(state))
    _, (finding,) = read_data_file(str(tmp_path))
    assert finding.code == "GK460"


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.csv"])
def test_a_file_is_never_in_memory_as_a_whole(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, [{"prompt": "q" * 2000, "completion": "a"}] * 8000)
    tracemalloc.start()
    open_rows(path).identity()
    assert sum(1 for _ in open_rows(path).rows()) == 8000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < Path(path).stat().st_size / 2
