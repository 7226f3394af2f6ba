"""Images of addresses: fetched once into the directory of kept tokens, and then read like files."""

import fcntl
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import image_host
import pytest
import torch.distributed as dist
from gloo_ranks import launched_as_forks
from image_host import ImageHost, image, redirect, status
from test_vision_runs import make_home
from tiny_plans import compile_tiny
from tiny_vision import PATCH, SIZES, save_image, save_qwen_eyes

from gkdplan.diagnostics import Diagnostic, UserError
from gkdplan.pictures import PictureLimits
from gkdplan.runplan.model import DataPlan, DataSource
from gkdplan.runtime.data.cache import fetching
from gkdplan.runtime.data.cache.copies import LIST, UNFINISHED
from gkdplan.runtime.data.cache.shelf import Shelf
from gkdplan.runtime.data.chat import load_chat
from gkdplan.runtime.data.examples import Split, load_examples
from gkdplan.runtime.launch import run
from gkdplan.runtime.result import RunResult
from gkdplan.runtime.saved.run_directory import read_metrics
from gkdplan.runtime.vision.images import load_eyes
from gkdplan.vision import QwenVision

PLAN = DataPlan(train=(), eval=(), max_length=200, truncation="delete", shuffle=True)
RUN = {
    "generation": 'engine = "none"',
    "distributed": "false",
    "devices": 2,
    "steps": 2,
    "save_interval": 1,
}
ANSWER = {"role": "assistant", "content": "the sky"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("eyes")
    save_qwen_eyes(home)
    for number, size in enumerate(SIZES):
        save_image(home / f"{number}.png", number, size)
    return home


@pytest.fixture
def host(home, monkeypatch) -> Iterator[ImageHost]:
    """Has the images of `home`."""
    monkeypatch.setattr(fetching, "PAUSES_S", (0.01, 0.01))
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda: 1)
    with image_host.image_host() as host:
        host.answers = {f"/{n}.png": image((home / f"{n}.png").read_bytes()) for n in range(3)}
        yield host


@pytest.fixture
def shelf(home, host, tmp_path) -> Shelf:
    """That of the only rank, of a plan that allows the host; `tell` has what it said."""
    limits = PictureLimits(number=2, hosts=(host.site,))
    vision = QwenVision(16, 2, 2, 20, PATCH, 2, 2, 32, (2, 1, 1), save_qwen_eyes(home), 16, (1,))
    chat = load_chat(home, load_eyes(home, vision, limits))
    told: list[str] = []
    return Shelf(tmp_path / "kept", "data.cache", chat, home, told.append)


@pytest.fixture
def rows(host, tmp_path) -> Callable[..., Split]:
    """The split of rows each of which shows what stands at some paths of the host."""

    def write(*rows: tuple[str, ...], name: str = "rows.jsonl", key: str = "data.train") -> Split:
        path = tmp_path / name
        lines = []
        for paths in rows:
            images = [
                p if "://" in p or p.startswith(str(tmp_path)) else host.url(p) for p in paths
            ]
            content = "<image>" * len(images) + "what is it?"
            turns = [{"role": "user", "content": content}, ANSWER]
            lines.append(json.dumps({"messages": turns, "images": images}) + "\n")
        path.write_text("".join(lines))
        digest = sha256(path.read_bytes()).hexdigest()
        return Split((DataSource(str(path), None, len(rows), digest),), PLAN, 20, key)

    return write


def told(shelf: Shelf) -> list[str]:
    """The list to which it appends what it says."""
    return shelf.tell.__self__


def test_what_an_address_gives_is_what_its_file_would(shelf, host, rows, home, tmp_path):
    """Tokens, grids and pixels, to the last bit."""
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes((home / f"{number}.png").read_bytes())
    shown = (("/0.png",), (), ("/1.png", "/2.png"))
    near = tuple(tuple(f"{tmp_path}{path}" for path in paths) for paths in shown)
    by_path = load_examples(rows(*near, name="near.jsonl"), shelf.chat).examples
    far = shelf.examples(rows(*shown)).examples
    eyes = shelf.chat.eyes
    for one, other in zip(far, by_path, strict=True):
        assert (one.prompt, one.response) == (other.prompt, other.response)
        assert [s.grid for s in one.shown] == [s.grid for s in other.shown]
        for first, second in zip(one.shown, other.shown, strict=True):
            assert all(
                a.equal(b) for a, b in zip(eyes.pixels([first]), eyes.pixels([second]), strict=True)
            )
            assert (
                first.picture.name
                == f"the image `{host.url('/' + Path(second.picture.path).name)}`"
            )


def test_an_address_is_asked_once_of_all_rows_splits_and_runs(shelf, host, rows):
    split = rows(("/0.png", "/1.png"), ("/0.png",), ("/1.png#again",))
    held_out = rows(("/0.png",), ("/2.png",), name="eval.jsonl", key="data.eval")
    first = [list(shelf.examples(each).examples) for each in (split, held_out)]
    assert sorted(host.asked) == ["/0.png", "/1.png", "/2.png"]
    host.answers.clear()
    again = [list(shelf.examples(each).examples) for each in (split, held_out)]
    longer = replace(split, max_completion_length=30)
    shelf.examples(longer)
    assert again == first
    assert len(host.asked) == 3
    lines = told(shelf)
    assert lines[0] == f"images to fetch: 2, into {shelf.directory}/images"
    assert lines[1].startswith("images fetched: 2 of 2, ")
    assert [line.split(",")[0] for line in lines[4:]] == [
        "`data.train` is tokenised already",
        "`data.eval` is tokenised already",
    ]


def test_copies_are_named_by_their_sha256_and_lie_where_the_tokens_do(shelf, host, rows, tmp_path):
    (example,) = shelf.examples(rows(("/0.png",))).examples
    picture = example.shown[0].picture
    path = Path(picture.path)
    assert path == shelf.directory / "images" / picture.sha256[:2] / picture.sha256
    assert sha256(path.read_bytes()).hexdigest() == picture.sha256
    moved = shelf.directory.rename(tmp_path / "moved")
    (example,) = replace(shelf, directory=moved).examples(rows(("/0.png",))).examples
    assert Path(example.shown[0].picture.path).parents[2] == moved
    assert len(host.asked) == 1


@pytest.mark.parametrize("damage", ["other bytes", "no file"])
def test_a_damaged_copy_is_told_and_fetched_anew(shelf, host, rows, damage):
    split = rows(("/0.png",), ("/1.png",))
    before = list(shelf.examples(split).examples)
    path = Path(before[0].shown[0].picture.path)
    if damage == "no file":
        path.unlink()
    else:
        state, content = path.stat(), bytearray(path.read_bytes())
        content[60] ^= 1
        path.write_bytes(content)
        path.touch()
        with pytest.raises(UserError, match=r"GK485: .*0.png`, whose copy .* has changed"):
            shelf.chat.eyes.pixels(before[0].shown)
        assert path.stat().st_size == state.st_size
    told(shelf).clear()
    assert list(shelf.examples(split).examples) == before
    assert sorted(host.asked) == ["/0.png", "/0.png", "/1.png"]
    anew, fetched, *_ = told(shelf)
    assert f"is tokenised anew: in {folder(shelf)} the copy of `{host.url('/0.png')}`" in anew
    assert "images to fetch anew: 1" in fetched
    shelf.chat.eyes.pixels(before[0].shown)


def test_all_that_cannot_be_fetched_is_named_and_what_could_be_is_kept(shelf, host, rows):
    host.answers |= {"/404.png": status(404), "/page.png": image_host.page}
    split = rows(("/0.png", "/404.png"), ("/1.png",), ("/page.png",), ("/404.png",))
    found = refused("GK496", shelf, split)
    source = split.sources[0].path
    named = [line for line in (found.message, *found.notes) if line.startswith("the row at")]
    assert sorted(named) == [
        f"the row at `{source}:1` has the image `{host.url('/404.png')}`, which answers 404",
        f"the row at `{source}:3` has the image `{host.url('/page.png')}`, which sends what is "
        "none of PNG, JPEG, GIF, BMP, WEBP, and says `text/html`",
    ]
    assert found.path == "data.train[0]"
    assert found.notes[-1] == f"2 others were fetched, and stay in {shelf.directory}/images"
    host.asked.clear()
    host.answers |= {"/404.png": host.answers["/2.png"], "/page.png": host.answers["/2.png"]}
    assert len(shelf.examples(split).examples) == 4
    assert sorted(host.asked) == ["/404.png", "/page.png"]


def test_rows_that_may_be_left_out_are_not_those_without_their_image(shelf, host, rows):
    split = rows(("/404.png",), ("/0.png",))
    refused("GK496", shelf, replace(split, data=replace(PLAN, max_bad_rows=2)))


def test_nothing_is_fetched_where_a_row_names_another_host(shelf, host, rows):
    far = "https://elsewhere.org/a.png"
    split = rows(("/0.png",), (far,), ("http://me:secret@elsewhere.org/",))
    found = refused("GK496", shelf, split)
    assert f"{split.sources[0].path}:2` has the image `{far}`" in found.message
    assert "`data.image_hosts` does not name `elsewhere.org`" in found.message
    assert f'`image_hosts = ["{host.site}", "elsewhere.org"]`' in found.help[0]
    assert "names a user before its host" in found.notes[0]
    assert not host.asked


def test_a_redirect_elsewhere_is_refused_and_named_with_its_row(shelf, host, rows):
    with image_host.image_host() as other:
        other.answers["/a.png"] = host.answers["/0.png"]
        host.answers["/away.png"] = redirect(other.url("/a.png"))
        found = refused("GK496", shelf, rows(("/0.png",), ("/away.png",)))
        assert f"`{other.site}`, which `data.image_hosts` does not name" in found.message
        assert "rows.jsonl:2" in found.message
        assert not other.asked


def test_an_image_that_cannot_be_decoded_is_named_by_row_and_address(shelf, host, rows, home):
    whole = (home / "0.png").read_bytes()
    host.answers |= {"/head.png": image(whole[:20]), "/half.png": image(whole[:100])}
    found = refused("GK485", shelf, rows(("/0.png",), ("/head.png",)))
    assert "rows.jsonl:2" in found.message
    assert host.url("/head.png") in found.message
    (example,) = shelf.examples(rows(("/half.png",))).examples
    with pytest.raises(UserError, match=r"GK485: .*rows.jsonl:1.*half.png`, which cannot be dec"):
        shelf.chat.eyes.pixels(example.shown)


def test_an_image_over_the_limit_of_pixels_or_a_row_over_that_of_number_is_refused(
    shelf, host, rows, home
):
    refused("GK485", shelf, rows(("/0.png", "/1.png", "/2.png")))
    assert not host.asked
    eyes = replace(shelf.chat.eyes, limits=replace(shelf.chat.eyes.limits, num_pixels=279))
    small = replace(shelf, chat=replace(shelf.chat, eyes=eyes))
    assert "of 20 x 14 pixels" in refused("GK485", small, rows(("/0.png",))).message


def test_what_a_killed_run_had_fetched_stays_and_what_it_left_unfinished_goes(shelf, host, rows):
    split = rows(("/0.png",), ("/1.png",))
    expected = list(shelf.examples(split).examples)
    images, kept = shelf.directory / "images", folder(shelf)
    for file in (*kept.iterdir(),):
        file.unlink()
    kept.rmdir()
    (images / UNFINISHED / "abc").write_bytes(b"half")
    lines = (images / LIST).read_text()
    (images / LIST).write_text(lines.splitlines()[0] + '\n{"address": "http://')
    host.asked.clear()
    assert list(shelf.examples(split).examples) == expected
    assert len(host.asked) == 1
    assert not (images / UNFINISHED / "abc").exists()
    assert sorted((images / LIST).read_text().splitlines()) == sorted(lines.splitlines())


def test_a_run_waits_for_another_that_fetches_images(shelf, host, rows):
    images = shelf.directory / "images"
    images.mkdir(parents=True)
    with images.with_suffix(".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        waiting = threading.Thread(target=shelf.examples, args=(rows(("/0.png",)),), daemon=True)
        waiting.start()
        deadline = time.monotonic() + 20
        while not told(shelf) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert told(shelf) == [f"another run fetches images into {shelf.directory}: waiting"]
        assert not host.asked
    waiting.join(20)
    assert host.asked == ["/0.png"]


def test_without_a_host_that_is_allowed_nothing_is_fetched(shelf, host, rows):
    eyes = shelf.chat.eyes
    deaf = replace(eyes, limits=replace(eyes.limits, hosts=()))
    found = refused("GK485", replace(shelf, chat=replace(shelf.chat, eyes=deaf)), rows(("/0.png",)))
    assert f"does not name `{host.site}`" in found.message
    with pytest.raises(UserError, match=r"GK497: .*0.png`, which was not fetched"):
        load_examples(rows(("/0.png",)), shelf.chat)
    assert not host.asked


def refused(code: str, shelf: Shelf, split: Split) -> Diagnostic:
    with pytest.raises(UserError) as refusal:
        shelf.examples(split)
    (found,) = refusal.value.diagnostics
    assert found.code == code
    return found


def folder(shelf: Shelf) -> Path:
    """Of the tokens of the only split."""
    (found,) = (path for path in shelf.directory.iterdir() if (path / "split.json").is_file())
    return found


@pytest.mark.timeout(900)
def test_a_run_of_addresses_is_that_of_their_files_and_goes_on_without_the_host(
    tmp_path, monkeypatch
):
    """Every step and the saved student to the last bit, by two ranks; proxies are not asked."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    home = make_home("qwen-vl", tmp_path / "home")
    options = {**RUN, "held_out": "[]"}
    with launched_as_forks(), image_host.image_host() as host:
        near = run(compile_tiny(home, tmp_path / "near", **options))
        far = (home / "rows.jsonl").read_text()
        for path in home.glob("rows-*.png"):
            host.answers[f"/{path.name}"] = image(path.read_bytes())
            far = far.replace(str(path), host.url(f"/{path.name}"))
        (home / "rows.jsonl").write_text(far)
        options["held_out"] = f'[]\nimage_hosts = ["{host.site}"]'
        run_plan = compile_tiny(home, tmp_path / "far", **options)
        first = run(run_plan)
        assert sorted(host.asked) == sorted(host.answers)
        assert _learnt(first) == _learnt(near)
        host.answers.clear()
        (first.run_dir / "checkpoints" / "step_2").rename(tmp_path / "step_2")
        assert _learnt(run(run_plan)) == _learnt(near)
        assert len(host.asked) == len(list(home.glob("rows-*.png")))


def _learnt(result: RunResult) -> tuple[list[tuple[float, float]], str]:
    """Loss and norm of the gradient of each step, and the sha256 of the student."""
    assert result.exit_code == 0, result.diagnostics
    lines = read_metrics(result.run_dir / "metrics.jsonl")
    steps = {line["step"]: (line["loss"], line["grad_norm"]) for line in lines if "loss" in line}
    student = (result.student_dir / "model.safetensors").read_bytes()
    assert list(steps) == [1, 2]
    return list(steps.values()), sha256(student).hexdigest()
