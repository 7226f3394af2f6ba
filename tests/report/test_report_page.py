import json
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from gkdplan.diagnostics import UserError
from gkdplan.report.markup import Markup, tag
from gkdplan.report.page import lock_page, run_page
from gkdplan.report.run_record import read_run
from gkdplan.report.timing import timing_rows
from gkdplan.runplan.codec import encode, seal
from gkdplan.runplan.layout import AxisDegrees
from gkdplan.vocab import Phase, Source

VOID = {"meta"}


class Page(HTMLParser):
    """Elements of a page by class, its visible text, and whether every tag is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name not in VOID:
            self.open.append(name)

    def handle_startendtag(self, name, attributes):
        self.elements.append((name, dict(attributes)))

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)

    def of_class(self, css_class: str) -> list[dict[str, str]]:
        return [a for _, a in self.elements if css_class in a.get("class", "").split()]


@pytest.fixture
def run_directory(run_plan, tmp_path):
    """A run of three steps, one of each source, measured in the first."""
    (tmp_path / "plan.lock.json").write_text(encode(run_plan))
    planned = run_plan.ledger.classes[0].phases[Phase.STUDENT].peak_bytes
    lines = [{"step": 0, "eval": {"jsd": 0.5, "cross_entropy": 4.0, "num_tokens": 9}}]
    for step, source in enumerate(Source, start=1):
        seconds = {"teacher": 1.0, "student": 3.0}
        peak = {"student": planned * 11 // 10} if step == 1 else {}
        lines.append(
            {
                "step": step,
                "loss": 1 / step,
                "num_tokens": 10,
                "source": source,
                "time_s": seconds,
                "peak_bytes": peak,
            }
        )
    lines.append({"step": 3, "eval": {"jsd": 0.25, "cross_entropy": 3.0, "num_tokens": 9}})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 4, "loss": 0.')
    sampled = [
        {
            "step": step,
            "source": source,
            "prompt": f"<|user|><i>{step}</i>",
            "question": f"<i>{step}</i>",
            "completion": "a\u2028<script>",
        }
        for step in range(1, 6)
        for source in ("student", "teacher")
    ]
    completions = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in sampled)
    (tmp_path / "completions.jsonl").write_text(completions, encoding="utf-8")
    return tmp_path


def test_text_is_escaped_and_markup_is_not():
    inner = tag("b", "<i>")
    assert tag("p", "a & b", inner, title='"') == (
        '<p title="&quot;">a &amp; b<b>&lt;i&gt;</b></p>'
    )
    assert isinstance(inner, Markup)


def test_a_lock_s_page_is_well_formed_and_reaches_for_nothing(run_plan):
    html = lock_page(run_plan)
    page = Page(html)
    names = {name for name, _ in page.elements}
    assert names.isdisjoint({"script", "link", "img", "iframe", "a"})
    assert not any("href" in a or "src" in a for _, a in page.elements)
    assert "url(" not in html
    assert "@import" not in html
    assert "prefers-color-scheme: dark" in html
    assert "width=device-width" in html


def test_a_bar_s_segments_are_the_ledger_s_rows_to_scale(run_plan):
    page = Page(lock_page(run_plan))
    (memory,) = run_plan.ledger.classes
    widths = [
        float(a["style"].removeprefix("width:").removesuffix("%"))
        for a in page.of_class("segment")
        if "title" in a and "MiB" in a["title"]
    ]
    rows = [b for phase in memory.phases.values() for b in phase.rows.values()]
    assert len(widths) == len(rows)
    # all bars are to the scale of the fullest phase
    expected = 100 * sum(rows) / run_plan.ledger.peak_bytes
    assert sum(widths) == pytest.approx(expected, abs=0.001 * len(rows))


def test_there_is_a_cell_for_every_step_and_every_rank(run_plan):
    html = lock_page(run_plan)
    page = Page(html)
    assert sum("step 7: " in a.get("title", "") for _, a in page.elements) == 1
    ranks = [a["title"] for _, a in page.elements if a.get("title", "").startswith("rank ")]
    assert ranks == ["rank 0, stage 0", "rank 1, stage 0"]


def test_a_stage_of_a_pipeline_is_a_row_of_ranks(run_plan):
    student = AxisDegrees(tensor=2, sequence=True, data=2, pipeline=4)
    layout = replace(run_plan.layout, world_size=16, student=student, teacher=student)
    page = Page(lock_page(replace(run_plan, layout=layout)))
    (mesh,) = page.of_class("mesh")
    assert mesh["style"] == "--columns:4"  # tensor 2 x data 2 ranks of a stage
    titles = [a["title"] for _, a in page.elements if a.get("title", "").startswith("rank ")]
    assert len(titles) == 16
    assert titles[5] == "rank 5, stage 1"


def test_ranks_that_cannot_be_told_apart_are_told_in_words(run_plan):
    degrees = AxisDegrees(tensor=2, sequence=True, data=512, pipeline=4)
    layout = replace(run_plan.layout, world_size=4096, student=degrees, teacher=degrees)
    page = Page(lock_page(replace(run_plan, layout=layout)))
    assert page.of_class("mesh") == []
    assert "ranks: tensor 2 + sequence, pipeline 4, data 512" in page.text


def test_the_page_has_the_predicted_time_of_every_phase(run_plan):
    text = Page(lock_page(run_plan)).text
    for name, likely, span, parts in timing_rows(run_plan.timing):
        start = text.index(name, text.index("made of"))
        assert {likely, span, parts} - {""} <= set(text[start : start + 4])


def test_a_hostile_name_is_only_text(run_plan):
    hostile = seal(replace(run_plan, name='<script>alert("x")</script>'))
    page = Page(lock_page(hostile))
    assert "script" not in {name for name, _ in page.elements}
    assert '<script>alert("x")</script>' in page.text


def test_a_run_s_page_shows_planned_beside_measured(run_directory):
    html = run_page(read_run(run_directory))
    page = Page(html)
    text = " ".join(page.text)
    assert "0.2500" in text
    assert "0.5000 before (-50%)" in text
    assert len(page.of_class("planned")) == 5
    assert len(page.of_class("measured")) == 1
    assert "measured (+10.0%)" in text
    assert len(page.of_class("dot")) == 3
    assert "9 s (75%)" in text  # 3 steps of 3 s in the student phase, of 4 s in all
    assert "<script>" in text
    assert "script" not in {name for name, _ in page.elements}


def test_the_newest_samples_of_each_model_are_shown(run_directory):
    page = Page(run_page(read_run(run_directory)))
    assert len(page.of_class("card")) == 6
    assert "<i>5</i>" in page.text
    assert "<i>2</i>" not in page.text


def test_a_held_out_prompt_has_its_first_and_its_last_answer(run_directory):
    answers = [
        {"step": step, "row": row, "question": f"Wo {row}?", "expected": "<hier>"}
        | {"answer": f"answer {row} of {step}", "num_tokens": 3}
        for step in (0, 2, 3)
        for row in (4, 9)
    ]
    lines = "".join(json.dumps(line) + "\n" for line in answers)
    (run_directory / "answers.jsonl").write_text(lines + '{"step": 4')
    text = Page(run_page(read_run(run_directory))).text
    begin = text.index("Wo 4?")
    said = [words for words in text[begin:] if words.strip()][:14]
    for row in (4, 9):
        card, said = said[:7], said[7:]
        first, last = f"answer {row} of 0", f"answer {row} of 3"
        assert card == [
            f"Wo {row}?",
            *("expected", "<hier>"),
            *("student, step 0", first),
            *("student, step 3", last),
        ]
    assert "answer 4 of 2" not in text


def test_a_run_that_has_only_begun_has_a_page(run_directory):
    (run_directory / "metrics.jsonl").unlink()
    (run_directory / "completions.jsonl").unlink()
    text = " ".join(Page(run_page(read_run(run_directory))).text)
    assert "of 24 planned" in text


def test_a_directory_without_a_run_is_named(tmp_path):
    with pytest.raises(UserError) as raised:
        read_run(tmp_path)
    assert raised.value.diagnostics[0].code == "GK506"


def test_a_flat_curve_has_a_place_on_the_page(run_directory):
    record = read_run(run_directory)
    flat = tuple(replace(step, loss=0.0) for step in record.steps)
    assert len(Page(run_page(replace(record, steps=flat))).of_class("dot")) == 3


@pytest.mark.parametrize(
    ("name", "damage", "code"),
    [
        ("metrics.jsonl", b"{\n", "GK505"),
        ("metrics.jsonl", b"\0\0\n", "GK505"),
        ("metrics.jsonl", b'{"step": 9, "loss": 1.0}\n', "GK505"),
        ("completions.jsonl", b"[]\n", "GK505"),
        ("plan.lock.json", b"\xff\xfe", "GK502"),
    ],
)
def test_a_damaged_record_is_named(run_directory, name, damage, code):
    (run_directory / name).write_bytes(damage)
    with pytest.raises(UserError, match=code) as refused:
        read_run(run_directory)
    assert name in refused.value.diagnostics[0].message
