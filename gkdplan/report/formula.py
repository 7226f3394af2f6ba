"""Numbers of the ledger with their formulas: terms, numbers put in, bytes, symbols, source."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from gkdplan.report.memory import ranks_of
from gkdplan.report.wrapping import wrap
from gkdplan.runplan.formula import Explanation, Symbol
from gkdplan.units import format_bytes

_NOTE = (
    "the number before the symbols holds bytes of an element, copies, layers and experts that are"
    " summed up, shares of their state, and micro-batches in flight"
)


def formula_report(explanations: Sequence[Explanation], width: int = 80) -> str:
    """A block a number, then the symbols of all; no line is wider than `width`."""
    blocks = [_block(explanation, width) for explanation in explanations]
    return "\n\n".join([*blocks, _where(symbols_of(explanations), width)])


def formula_json(explanations: Sequence[Explanation]) -> list[dict[str, Any]]:
    """The numbers with their terms, which sum to `num_bytes`, and the symbols in them."""
    return [asdict(explanation) for explanation in explanations]


def symbols_of(explanations: Sequence[Explanation]) -> list[Symbol]:
    """Every symbol once, in the order in which formulas bring them up."""
    return list({s.name: s for explained in explanations for s in explained.symbols}.values())


def _block(explained: Explanation, width: int) -> str:
    size = f"{format_bytes(explained.num_bytes)} ({explained.num_bytes:,} B)"
    title = f"{explained.phase}, {explained.row}: {size} on {ranks_of(explained.ranks)}"
    rows = [(format_bytes(t.num_bytes), t.formula, t.numbers) for t in explained.terms]
    sizes, formulas = (max(len(row[i]) for row in rows) for i in (0, 1))
    lines = [
        wrap(f"  {size:>{sizes}}  {formula:<{formulas}}  ", f"= {numbers}", width)
        for size, formula, numbers in rows
    ]
    about = wrap("  ", explained.meaning, width)
    return "\n".join(
        [wrap("", title, width), about, *lines, wrap("  from ", explained.source, width)]
    )


def _where(symbols: Sequence[Symbol], width: int) -> str:
    names = max((len(symbol.name) for symbol in symbols), default=0)
    values = max((len(f"{symbol.value:,}") for symbol in symbols), default=0)
    lines = [
        wrap(f"  {symbol.name:<{names}}  {symbol.value:>{values},}  ", symbol.meaning, width)
        for symbol in symbols
    ]
    return "\n".join(["where", *lines, wrap("", _NOTE, width)])
