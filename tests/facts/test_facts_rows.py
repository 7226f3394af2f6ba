import json
from hashlib import sha256
from pathlib import Path

import pytest

from gkdplan.diagnostics import Severity
from gkdplan.facts import survey
from gkdplan.facts.model import DataFile, TeacherColumn
from gkdplan.facts.rows import read_data_file
from gkdplan.pictures import PictureLimits
from gkdplan.rowfiles import row_file

ANSWERED = {"prompt": "q", "completion": "a"}
PROMPT = {"prompt": "q"}
CHAT = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
ASKED = {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]}


def write(path: Path, rows: list) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def accepted(entry: str) -> DataFile:
    file, findings = read_data_file(entry)
    assert findings == ()
    assert file is not None
    return file


def refused(entry: str) -> tuple[str, str]:
    file, (finding,) = read_data_file(entry)
    assert file is None
    assert finding.severity is Severity.ERROR
    return finding.code, finding.message


def test_rows_responses_and_conversations_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", [ANSWERED, PROMPT, CHAT, ASKED, {**CHAT, "prompt": 1}])
    file = accepted(path)
    assert (file.entry, file.path, file.limit) == (path, path, None)
    assert file.num_rows == 5
    assert file.num_rows_with_response == 3
    assert file.num_rows_with_messages == 3
    assert file.fingerprint == sha256(Path(path).read_bytes()).hexdigest()


def test_a_limit_takes_the_first_rows_and_the_fingerprint_is_of_the_whole_file(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "x.jsonl", [PROMPT, ANSWERED, CHAT])
    file = accepted(f"{path}#2")
    assert (file.limit, file.num_rows) == (2, 2)
    assert (file.num_rows_with_response, file.num_rows_with_messages) == (1, 0)
    assert file.fingerprint == accepted(path).fingerprint


def test_rows_past_the_limit_need_not_be_usable(tmp_path: Path) -> None:
    assert accepted(write(tmp_path / "x.jsonl", [PROMPT, {}]) + "#1").num_rows == 1


def test_blank_lines_do_not_count_and_the_last_line_may_lack_its_end(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('\n{"prompt": "q"}\r\n   \n{"prompt": "r"}')
    assert accepted(str(path)).num_rows == 2


def test_a_json_file_holds_one_list(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps([ANSWERED, PROMPT, CHAT], indent=1))
    file = accepted(f"{path}#2")
    assert (file.num_rows, file.num_rows_with_response) == (2, 1)
    path.write_text(json.dumps({"rows": []}))
    assert refused(str(path)) == ("GK460", f"the data file `{path}` does not hold one list of rows")


def test_json_lines_in_a_json_file_are_told_to_be_renamed(tmp_path: Path) -> None:
    path = write(tmp_path / "x.json", [PROMPT, PROMPT])
    _, (finding,) = read_data_file(path)
    assert finding.code == "GK460"
    assert "does not hold one list of rows" in finding.message
    assert ".jsonl" in finding.help[0]


def test_more_rows_asked_for_than_there_are_is_a_warning(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", [PROMPT, PROMPT])
    file, (finding,) = read_data_file(f"{path}#1000")
    assert file is not None
    assert file.num_rows == 2
    assert (finding.code, finding.severity) == ("GK465", Severity.WARNING)
    assert "holds 2 rows, and 1,000 are asked for" in finding.message


@pytest.mark.parametrize("suffix", ["0", "-3", "1e3", "ten", "", "1_000", "٣", "9" * 5000])
def test_a_bad_limit_is_refused(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / "x.jsonl", [PROMPT])
    assert refused(f"{path}#{suffix}")[0] == "GK461"


def test_a_hash_in_a_directory_name_is_no_limit(tmp_path: Path) -> None:
    (tmp_path / "c#").mkdir()
    assert accepted(write(tmp_path / "c#" / "x.jsonl", [PROMPT])).num_rows == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"prompt": "q"', "is not JSON at line 2, column 15: expecting ',' delimiter"),
        ("[1]", "holds a row that is not an object"),
        ("{}", "holds a row that has neither `messages` nor a `prompt` of text"),
        ('{"prompt": 1}', "neither `messages` nor a `prompt`"),
        ('{"prompt": "q", "completion": ["a"]}', "has a list of 1 item as its `completion`"),
        ('{"messages": []}', "has no list of turns as its `messages`"),
        ('{"messages": ["hi"]}', "has a turn without `role` and `content` of text"),
        ('{"messages": [{"role": "user"}]}', "has a turn without `role` and `content` of text"),
        (
            '{"messages": [{"role": "assistant", "content": "a"}]}',
            "an assistant's turn that answers no user (turn 1)",
        ),
        ('{"prompt": "\\ud800"}', "neither `messages` nor a `prompt` of text"),
        ('{"prompt": "q", "completion": "\\udfff"}', "as its `completion`, not text"),
        ('{"prompt": NaN}', "is not JSON"),
        ("\\ud800", "is not JSON"),
    ],
)
def test_a_row_that_cannot_be_used_is_shown_with_file_and_line(
    tmp_path: Path, line: str, reason: str
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(f'{{"prompt": "q"}}\n{line}\n')
    code, message = refused(str(path))
    assert code == "GK463"
    assert message.startswith(f"{path}:2 ")
    assert reason in message


def test_faults_are_counted(tmp_path: Path) -> None:
    _, (finding,) = read_data_file(write(tmp_path / "x.jsonl", [{}, PROMPT, [], {}]))
    assert finding.notes == ("3 of 4 checked rows cannot be used",)


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    assert refused(write(tmp_path / "x.jsonl", []))[0] == "GK462"
    (tmp_path / "x.json").write_text("[]")
    assert refused(str(tmp_path / "x.json"))[0] == "GK462"


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    near = write(tmp_path / "alpaca.jsonl", [PROMPT])
    _, (finding,) = read_data_file(str(tmp_path / "alpacca.jsonl"))
    assert finding.code == "GK460"
    assert finding.help == (f'did you mean "{near}"?',)


@pytest.mark.parametrize("entry", ["", "#3", ".", "x\0.jsonl", "a" * 10_000 + ".jsonl"])
def test_a_name_that_no_file_can_have_is_refused(entry: str) -> None:
    assert refused(entry)[0] in ("GK460", "GK464")


def test_unknown_formats_are_refused() -> None:
    assert refused("data/x.txt#3")[0] == "GK464"
    assert refused("data/x.py")[0] == "GK464"
    assert refused("https://host/x.jsonl")[0] == "GK464"
    assert refused("hf://datasets/x/y.parquet")[0] == "GK464"


@pytest.fixture
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "FULL_CHECK_BYTES", 100)
    monkeypatch.setattr(survey, "NUM_CHECKED_ROWS", 4)
    monkeypatch.setattr(row_file, "MAX_ROW_BYTES", 60)


@pytest.mark.usefixtures("small_bounds")
@pytest.mark.parametrize(
    ("rows", "num_responses", "words"),
    [
        ([ANSWERED] * 10, 10, "the other 6 are taken to be like them"),
        ([PROMPT] * 10, 0, "the other 6 are taken to be like them"),
        ([ANSWERED, PROMPT] * 5, 2, "the other 6 are taken to have no response"),
    ],
)
def test_of_a_large_file_the_first_rows_are_checked_and_all_are_counted(
    tmp_path: Path, rows: list, num_responses: int, words: str
) -> None:
    file, (finding,) = read_data_file(write(tmp_path / "x.jsonl", rows))
    assert file is not None
    assert (file.num_rows, file.num_rows_with_response) == (10, num_responses)
    assert (finding.code, finding.severity) == ("GK466", Severity.NOTE)
    assert "only the first 4 rows" in finding.message
    assert words in finding.message


@pytest.mark.usefixtures("small_bounds")
def test_a_limit_within_the_checked_rows_leaves_nothing_unchecked(tmp_path: Path) -> None:
    assert accepted(write(tmp_path / "x.jsonl", [PROMPT] * 10) + "#4").num_rows == 4


@pytest.mark.usefixtures("small_bounds")
def test_a_line_without_end_is_not_held_in_memory(tmp_path: Path) -> None:
    code, message = refused(write(tmp_path / "x.jsonl", [PROMPT, {"prompt": "q" * 100}]))
    assert code == "GK460"
    assert "has more than 60 bytes on line 2" in message


MATHS, CODE = {**PROMPT, "domain": "maths"}, {**PROMPT, "domain": "code"}
DOMAINS = TeacherColumn("domain", ("maths", "code"))


def test_rows_that_each_name_a_teacher_are_counted_as_others(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", [MATHS, CODE])
    assert read_data_file(path, DOMAINS) == read_data_file(path)


@pytest.mark.parametrize("name", ["x.jsonl", "x.json"])
def test_the_first_row_that_names_no_teacher_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    rows = [MATHS, PROMPT, {**PROMPT, "domain": 7}]
    path.write_text(json.dumps(rows) if name == "x.json" else "\n".join(map(json.dumps, rows)))
    _, (finding,) = read_data_file(str(path), DOMAINS)
    assert finding.code == "GK468"
    assert "no `domain`, which names no teacher" in finding.message
    assert (":2 " if name == "x.jsonl" else ", row 2 ") in finding.message
    assert finding.notes == (
        "2 of 3 checked rows name no teacher",
        "known values: maths, code",
    )
    assert read_data_file(f"{path}#1", DOMAINS)[1] == ()


def test_addresses_of_hosts_that_are_not_allowed_are_named_with_what_allows_them(tmp_path):
    rows = [
        seeing("https://a.org/x.png"),
        seeing("http://b.org:8000/y.png"),
        seeing("https://a.org:443/z.png", "https://c.org/x.png"),
    ]
    path = write(tmp_path / "x.jsonl", rows)
    _, (finding,) = read_data_file(path)
    assert (finding.code, finding.severity) == ("GK467", Severity.ERROR)
    assert finding.message == (
        f"{path}:1 holds a row that has the image `https://a.org/x.png`, and `data.image_hosts` "
        "does not name `a.org`"
    )
    assert finding.notes[0] == "3 of 3 checked rows show such images"
    assert 'image_hosts = ["a.org", "b.org:8000"]' in finding.help[0]
    some = PictureLimits(hosts=("a.org", "c.org"))
    _, (finding,) = read_data_file(path, limits=some)
    assert finding.message.startswith(f"{path}:2 ")
    assert '["a.org", "b.org:8000", "c.org"]' in finding.help[0]
    all_of_them = PictureLimits(hosts=("a.org", "b.org:8000", "c.org"))
    file, findings = read_data_file(path, limits=all_of_them)
    assert findings == ()
    assert file is not None
    assert (file.num_rows_with_images, file.most_images) == (3, 2)


def seeing(*images: str) -> dict:
    turns = [{"role": "user", "content": "<image>" * len(images)}, CHAT["messages"][1]]
    return {"messages": turns, "images": list(images)}
