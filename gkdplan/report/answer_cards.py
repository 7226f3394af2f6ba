"""Held-out prompts: what the dataset says, and what the student answered first and last."""

from collections.abc import Iterator, Sequence

from gkdplan.report.markup import Markup, tag
from gkdplan.report.run_record import Answer

LONGEST_TEXT = 600


def answer_cards(answers: Sequence[Answer]) -> Markup:
    """A card a prompt, in the order in which they were answered."""
    rows = dict.fromkeys(answer.row for answer in answers)
    return tag(
        "div", *(_card([a for a in answers if a.row == row]) for row in rows), class_="cards"
    )


def _card(answers: Sequence[Answer]) -> Markup:
    first, last = answers[0], answers[-1]
    return tag(
        "article",
        tag("p", _cut(first.question), class_="question"),
        tag("dl", *_said("expected", first.expected), *_answers(first, last)),
        class_="card",
    )


def _answers(first: Answer, last: Answer) -> Iterator[Markup]:
    yield from _said(f"student, step {first.step}", first.answer)
    if last.step != first.step:
        yield from _said(f"student, step {last.step}", last.answer)


def _said(who: str, text: str) -> Iterator[Markup]:
    yield tag("dt", who)
    yield tag("dd", _cut(text), class_="completion")


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} ..."
