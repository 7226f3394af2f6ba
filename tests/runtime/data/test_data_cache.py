"""Tokens of rows that are kept: what comes back is what was made, and never that of other rows."""

import base64
import fcntl
import json
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch.distributed as dist
from gloo_ranks import run_on_ranks

from gkdplan.diagnostics import UserError
from gkdplan.pictures import Picture
from gkdplan.runplan.model import DataPlan, DataSource
from gkdplan.runtime.data.cache.columns import TOKENS, Column, ColumnWriter
from gkdplan.runtime.data.cache.shelf import Shelf
from gkdplan.runtime.data.cache.stored import StoredExamples, store
from gkdplan.runtime.data.chat import load_chat
from gkdplan.runtime.data.examples import Example, Split, load_examples
from gkdplan.runtime.saved.manifest import write_manifest
from gkdplan.runtime.vision.images import Shown

PLAN = DataPlan(train=(), eval=(), max_length=40, truncation="delete", shuffle=True)
ROWS = (
    {"messages": [{"role": "user", "content": "Hé?"}, {"role": "assistant", "content": "ja 中"}]},
    {"prompt": "abc"},
    {"prompt": "0123456789" * 5, "completion": "too long"},
    "{",
    {"prompt": "de", "completion": "f" * 30},
)


@pytest.fixture
def split(data_file) -> Split:
    """Of five rows one is left out as too long, one is no row, and one loses its end."""
    return Split((data_file(*ROWS),), replace(PLAN, max_bad_rows=1), max_completion_length=8)


@pytest.fixture
def shelf(tmp_path, tiny_chat, monkeypatch) -> Shelf:
    """That of the only rank; `told` is what it said."""
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda: 1)
    return Shelf(tmp_path / "kept", "data.cache", tiny_chat(), tmp_path / "tokenizer", Told())


class Told(list):
    def __call__(self, words: str) -> None:
        self.append(words)


def test_a_column_gives_back_each_list_and_maps_its_files(tmp_path):
    lists = [[1, 2, 3], [], [2**31 - 1], []]
    writer = ColumnWriter(tmp_path, "tokens", TOKENS)
    for values in lists:
        writer.append(values)
    writer.close()
    column = Column(tmp_path, "tokens", TOKENS)
    assert [column[row].tolist() for row in range(len(column))] == lists
    assert isinstance(column._values, np.memmap)
    with pytest.raises(OverflowError):
        ColumnWriter(tmp_path, "wide", TOKENS).append([2**31])


def test_examples_come_back_as_they_were(tmp_path):
    shown = (
        Shown(Picture(path="a b.png"), "rows.jsonl:2", "data.train[0]", (2, 3)),
        Shown(Picture(base64=base64.b64encode(b"x").decode()), "rows.jsonl:2", "data.train[0]"),
    )
    examples = [
        Example(0, "rows.jsonl:1", (1, 2, 3), (4,), "\ud800 é中\n"),
        Example(4, "rows.jsonl:2", (7,), None, "", "maths", shown),
        Example(5, "rows.jsonl:3", (8, 9), (), "q"),
    ]
    stored = store(tmp_path, examples)
    assert list(stored) == examples
    assert (stored[-1], stored[1:], len(stored)) == (examples[2], examples[1:], 3)
    with pytest.raises(IndexError):
        stored[3]


def test_a_split_without_a_response_has_an_empty_column(tmp_path):
    (only,) = store(tmp_path, [Example(0, "rows.jsonl:1", (1,), None, "q")])
    assert only.response is None


def test_what_is_kept_is_what_reading_gives(shelf, split):
    read, first, again = (
        load_examples(split, shelf.chat),
        shelf.examples(split),
        shelf.examples(split),
    )
    assert (read.num_deleted, read.num_cut, len(read.bad_rows)) == (1, 1, 1)
    for kept in (first, again):
        assert isinstance(kept.examples, StoredExamples)
        assert replace(kept, examples=tuple(kept.examples)) == read
        assert kept.notes == read.notes
    (folder,) = folders(shelf)
    assert shelf.tell == [f"`data.train` is tokenised already, in {folder}"]


def test_what_is_kept_is_not_tokenised_again(shelf, split):
    shelf.examples(split)
    deaf = replace(shelf, chat=replace(shelf.chat, tokenizer=None))
    assert len(deaf.examples(split).examples) == 3
    with pytest.raises(AttributeError):
        deaf.examples(replace(split, max_completion_length=9))


@pytest.mark.parametrize(
    "change",
    [
        {"max_completion_length": 9},
        {"key": "data.eval"},
        {"data": replace(PLAN, max_bad_rows=1, max_length=60)},
        {"data": replace(PLAN, max_bad_rows=1, truncation="left")},
        {"data": replace(PLAN, max_bad_rows=2)},
    ],
    ids=["responses", "key", "prompts", "truncation", "bad rows"],
)
def test_other_limits_are_kept_apart(shelf, split, change):
    shelf.examples(split)
    other = replace(split, **change)
    kept = shelf.examples(other)
    assert replace(kept, examples=tuple(kept.examples)) == load_examples(other, shelf.chat)
    assert len(folders(shelf)) == 2


def test_other_rows_and_another_tokenizer_are_kept_apart(shelf, split, data_file):
    shelf.examples(split)
    shelf.examples(replace(split, sources=(replace(split.sources[0], limit=2),)))
    other = replace(split, sources=(data_file({"prompt": "xyz"}),))
    assert len(shelf.examples(other).examples) == 1
    template = shelf.student / "chat_template.jinja"
    template.write_text(tiny.CHAT_TEMPLATE + "{# another #}")
    shelf.examples(other)
    assert len(folders(shelf)) == 4


def test_a_changed_data_file_is_refused_although_its_tokens_are_kept(shelf, split):
    shelf.examples(split)
    Path(split.sources[0].path).write_text('{"prompt": "other"}\n')
    with pytest.raises(UserError, match="GK470"):
        shelf.examples(split)


@pytest.mark.parametrize("damage", ["a byte", "a file", "the manifest"])
def test_what_is_damaged_is_made_anew_and_told(shelf, split, damage):
    before = list(shelf.examples(split).examples)
    (folder,) = folders(shelf)
    values = folder / "prompts.values"
    match damage:
        case "a byte":
            values.write_bytes(bytes([values.read_bytes()[0] ^ 1]) + values.read_bytes()[1:])
        case "a file":
            values.unlink()
        case "the manifest":
            (folder / "manifest.json").write_text("{")
    assert list(shelf.examples(split).examples) == before
    assert [line.split(" in ")[0] for line in shelf.tell] == ["`data.train` is tokenised anew:"]


def test_what_a_killed_run_left_unfinished_is_written_over(shelf, split):
    shelf.examples(split)
    (folder,) = folders(shelf)
    folder.rename(folder.with_suffix(".partial"))
    assert len(shelf.examples(split).examples) == 3
    assert not folder.with_suffix(".partial").exists()


def test_a_run_waits_for_another_that_tokenises_the_same(shelf, split):
    shelf.examples(split)
    (folder,) = folders(shelf)
    shelf.tell.clear()
    with folder.with_suffix(".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        waiting = threading.Thread(target=shelf.examples, args=(split,))
        waiting.start()
        deadline = time.monotonic() + 20
        while not shelf.tell and time.monotonic() < deadline:
            time.sleep(0.01)
        assert waiting.is_alive()
        assert shelf.tell == [f"another run tokenises the same rows in {shelf.directory}: waiting"]
    waiting.join(20)
    assert "is tokenised already" in shelf.tell[-1]


def test_an_image_that_changed_is_measured_anew(shelf, split, tmp_path):
    picture = tmp_path / "a.png"
    picture.write_bytes(b"1")
    shelf.examples(split)
    (folder,) = folders(shelf)
    state = picture.stat()
    (folder / "images.json").write_text(
        json.dumps({str(picture): [state.st_size, state.st_mtime_ns]})
    )
    (folder / "manifest.json").unlink()
    write_manifest(folder, {})
    shelf.examples(split)
    os.utime(picture, ns=(0, 0))
    shelf.examples(split)
    assert [line.split(",")[0] for line in shelf.tell] == [
        "`data.train` is tokenised already",
        f"`data.train` is tokenised anew: in {folder} `{picture}` is another than it was",
    ]


def test_a_directory_that_cannot_be_written_is_named(shelf, split):
    shelf.directory.write_text("a file")
    with pytest.raises(UserError, match=r"GK493: .*kept`: file exists"):
        shelf.examples(split)


def test_nothing_is_kept_of_no_rows(shelf):
    kept = shelf.examples(Split((), PLAN, 8, "data.eval"))
    assert (kept.key, len(kept.examples), kept.notes) == ("data.eval", 0, ())
    assert not shelf.directory.exists()


def test_one_rank_tokenises_and_all_have_the_same(tmp_path, tiny_chat, data_file):
    tiny_chat()
    source = data_file(*(row for row in ROWS if row != "{"))
    run_on_ranks(_tokenised_by_rank_0, 2, str(tmp_path), source)


def _tokenised_by_rank_0(home: str, source: DataSource) -> None:
    student = Path(home, "tokenizer")
    chat, rank = load_chat(student), dist.get_rank()
    expected = load_examples(Split((source,), PLAN, 8), chat)
    if rank == 1:
        chat = replace(chat, tokenizer=None)
    shelf = Shelf(Path(home, "kept"), "run.output", chat, student, Told())
    kept = shelf.examples(Split((source,), PLAN, 8))
    assert replace(kept, examples=tuple(kept.examples)) == expected


def test_a_directory_that_hosts_do_not_share_is_named(tmp_path, tiny_chat, data_file):
    tiny_chat()
    run_on_ranks(_unshared, 2, str(tmp_path), data_file({"prompt": "a"}))


def _unshared(home: str, source: DataSource) -> None:
    rank, student = dist.get_rank(), Path(home, "tokenizer")
    shelf = Shelf(Path(home, f"host_{rank}"), "run.output", load_chat(student), student, Told())
    split = Split((source,), PLAN, 8)
    if rank == 0:
        assert len(shelf.examples(split).examples) == 1
        return
    with pytest.raises(UserError, match=r"GK494: rank 1 on .* does not find"):
        shelf.examples(split)


def folders(shelf: Shelf) -> list[Path]:
    return [path for path in shelf.directory.iterdir() if path.is_dir()]
