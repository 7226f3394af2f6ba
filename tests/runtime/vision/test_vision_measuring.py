"""`check --data` of models that see: an image counts as often as a run lets it stand."""

import json
from pathlib import Path

import pytest
from image_host import image, image_host
from test_vision_runs import make_home
from tiny_plans import compile_tiny, plan_text

from gkdplan.cli import main
from gkdplan.runplan.row_lengths import Lengths
from gkdplan.runtime.data.chat_of_plan import chat_of_plan
from gkdplan.runtime.data.examples import Split, load_examples

PLAN = {"generation": 'engine = "none"', "distributed": "false", "truncation": "delete"}


def checked(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], *options: str, **changes: str
) -> dict:
    plan = tmp_path / "plan.toml"
    plan.write_text(plan_text(home, tmp_path / "run", **PLAN, **changes), encoding="utf-8")
    main.run(["check", "--data", "--json", *options, str(plan)])
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("kind", ["llava", "qwen-vl", "internvl", "qwen3-vl"])
def test_the_tokens_are_those_of_a_run(kind, tmp_path, capsys):
    home = make_home(kind, tmp_path / "home")
    plan = compile_tiny(home, tmp_path / "run", **PLAN)
    chat = chat_of_plan(plan, home / "student", home / "teacher")
    taken = load_examples(Split(plan.data.train, plan.data, 12), chat)
    assert {len(example.shown) for example in taken.examples} == {0, 1, 2}
    said = checked(home, tmp_path, capsys)
    assert not [found for found in said["diagnostics"] if found["severity"] == "error"]
    train, _ = said["data"]
    prompts = Lengths.of([len(example.prompt) for example in taken.examples])
    assert train["num_taken"] == len(taken.examples)
    assert tuple(train["prompts"]["at_percent"]) == prompts.at_percent


def test_an_image_that_a_run_would_refuse_is_named(tmp_path, capsys):
    home = make_home("llava", tmp_path / "home")
    rows = [json.loads(line) for line in (home / "rows.jsonl").read_text().splitlines()]
    image = next(Path(row["images"][0]) for row in rows if row.get("images"))
    image.write_bytes(image.read_bytes()[:20])
    codes = [found["code"] for found in checked(home, tmp_path, capsys)["diagnostics"]]
    assert "GK485" in codes


def test_a_teacher_that_prepares_images_in_another_way_is_named(tmp_path, capsys):
    home = make_home("llava", tmp_path / "home")
    settings = home / "teacher" / "preprocessor_config.json"
    changed = json.loads(settings.read_text()) | {"image_mean": [0.1, 0.2, 0.3]}
    settings.write_text(json.dumps(changed))
    codes = [found["code"] for found in checked(home, tmp_path, capsys)["diagnostics"]]
    assert "GK131" in codes


def test_images_of_addresses_are_counted_once_they_were_fetched_and_not_before(tmp_path, capsys):
    home = make_home("qwen-vl", tmp_path / "home")
    rows = [json.loads(line) for line in (home / "rows.jsonl").read_text().splitlines()]
    seen = [row for row in rows if row.get("images")]
    content = Path(seen[0]["images"][0]).read_bytes()
    near = checked(home, tmp_path, capsys)
    with image_host() as host:
        host.answers["/a.png"] = image(content)
        far = host.url("/a.png")
        for row in seen:
            row["images"] = [far if Path(p).read_bytes() == content else p for p in row["images"]]
        (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        refused = checked(home, tmp_path, capsys)
        (found,) = (d for d in refused["diagnostics"] if d["path"] == "data.train[0]")
        assert found["code"] == "GK467"
        assert f'`image_hosts = ["{host.site}"]`' in found["help"][0]
        allowing = f'[]\ncache = "{tmp_path}/kept"\nimage_hosts = ["{host.site}"]'
        before = checked(home, tmp_path, capsys, held_out=allowing)
        assert not host.asked
        (found,) = (d for d in before["diagnostics"] if d["code"] == "GK497")
        assert found["message"].startswith("1 rows of `data.train` are not counted")
        assert far in found["notes"][0]
        (train,) = before["data"]
        assert (train["num_unfetched"], train["num_rows"]) == (1, len(rows) - 1)
        fetched = checked(home, tmp_path, capsys, "--fetch", held_out=allowing)
        assert host.asked == ["/a.png"]
    for each in (fetched, checked(home, tmp_path, capsys, held_out=allowing)):
        assert each["data"] == [{**near["data"][0], "num_unfetched": 0}]
        assert not [d for d in each["diagnostics"] if d["code"] == "GK497"]


def test_fetching_beforehand_needs_hosts_and_a_directory_that_is_no_runs(tmp_path, capsys):
    home = make_home("llava", tmp_path / "home")
    plan = tmp_path / "plan.toml"
    for data, options, reason in (
        ("", [], "goes with `--data`"),
        ("", ["--data"], "fetches from `data.image_hosts`"),
        ('\nimage_hosts = ["a.org"]', ["--data"], "fetches into `data.cache`"),
    ):
        plan.write_text(plan_text(home, tmp_path / "run", **PLAN, held_out=f"[]{data}"))
        assert main.run(["check", "--fetch", *options, str(plan)]) == 2
        assert reason in capsys.readouterr().err
