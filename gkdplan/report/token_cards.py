"""Responses token by token, each as dark as it diverges."""

from collections.abc import Iterator, Sequence

from gkdplan.report.markup import Markup, tag
from gkdplan.report.run_record import ReadTokens

MOST_TOKENS = 200


def token_cards(read: Sequence[ReadTokens]) -> Markup:
    return tag("div", *map(_card, read), class_="cards")


def _card(one: ReadTokens) -> Markup:
    mean = sum(one.divergences) / len(one.divergences)
    same = sum(one.agree) / len(one.agree)
    head = f"{one.source}, step {one.step}: {mean:.3f} nats a token, {same:.0%} agree"
    return tag(
        "article",
        tag("header", tag("span", class_=f"swatch source-{one.source}"), head),
        tag("p", one.question[:200], class_="question"),
        tag("p", *_tokens(one), class_="tokens"),
        class_="card",
    )


def _tokens(one: ReadTokens) -> Iterator[Markup]:
    """The most divergent is darkest; what the teacher would not have written is underlined."""
    most = max(one.divergences) or 1.0
    marked = zip(one.tokens, one.divergences, one.agree, strict=True)
    for text, divergence, agrees in [*marked][:MOST_TOKENS]:
        yield tag(
            "span",
            text,
            style=f"--share:{divergence / most:.3f}",
            class_=None if agrees else "other",
            title=f"{divergence:.4f} nats",
        )
