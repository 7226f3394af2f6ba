"""Numbers of the ledger with their formulas: terms, numbers put in, bytes, symbols, source."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from gkdplan.report.figures import ranks_of
from gkdplan.report.wrapping import wrap
from gkdplan.runplan.formula import Explanation, Symbol
from gkdplan.runplan.ledger import ClassMemory, Ledger
from gkdplan.units import format_bytes

_NOTE = (
    "the number before the symbols holds bytes of an element, copies, layers and experts that are"
    " summed up, shares of their state, and micro-batches in flight"
)


def formula_report(explanations: Sequence[Explanation], ledger: Ledger, width: int = 80) -> str:
    """A block a number, with a line for each class of ranks where these differ; then the symbols of
    all. No line is wider than `width`."""
    blocks = [_block(explanation, ledger, width) for explanation in explanations]
    return "\n\n".join([*blocks, _where(symbols_of(explanations), width)])


def formula_json(explanations: Sequence[Explanation], ledger: Ledger) -> list[dict[str, Any]]:
    """The numbers with their terms, which sum to `num_bytes`, the symbols in them, and the bytes of
    the same row and phase on every class of ranks."""
    return [
        {
            **asdict(explained),
            "classes": [
                {"ranks": memory.ranks, "stage": memory.stage, "num_bytes": num_bytes}
                for memory, num_bytes in _on_classes(explained, ledger)
            ],
        }
        for explained in explanations
    ]


def symbols_of(explanations: Sequence[Explanation]) -> list[Symbol]:
    """Every symbol once, in the order in which formulas bring them up."""
    return list({s.name: s for explained in explanations for s in explained.symbols}.values())


def _block(explained: Explanation, ledger: Ledger, width: int) -> str:
    size = _size(explained.num_bytes)
    title = f"{explained.phase}, {explained.row}: {size} on {ranks_of(explained.ranks)}"
    rows = [(format_bytes(t.num_bytes), t.formula, t.numbers) for t in explained.terms]
    sizes, formulas = (max(len(row[i]) for row in rows) for i in (0, 1))
    lines = [
        wrap(f"  {size:>{sizes}}  {formula:<{formulas}}  ", f"= {numbers}", width)
        for size, formula, numbers in rows
    ]
    about = wrap("  ", explained.meaning, width)
    about_ranks = _class_lines(explained, ledger, width)
    source = wrap("  from ", explained.source, width)
    return "\n".join([wrap("", title, width), about, *lines, source, *about_ranks])


def _class_lines(explained: Explanation, ledger: Ledger, width: int) -> list[str]:
    """A line for each class of ranks, where not all have as many bytes."""
    of_classes = _on_classes(explained, ledger)
    if len({num_bytes for _, num_bytes in of_classes}) == 1:
        return []
    return [
        wrap(f"  stage {memory.stage}: ", f"{_size(num_bytes)} on {ranks_of(memory.ranks)}", width)
        for memory, num_bytes in of_classes
    ]


def _on_classes(explained: Explanation, ledger: Ledger) -> list[tuple[ClassMemory, int]]:
    """Every class of ranks, and its bytes of the same row in the same phase."""
    return [
        (
            memory,
            memory.phases[explained.phase].rows.get(explained.row, 0)
            if explained.phase in memory.phases
            else 0,
        )
        for memory in ledger.classes
    ]


def _size(num_bytes: int) -> str:
    return f"{format_bytes(num_bytes)} ({num_bytes:,} B)"


def _where(symbols: Sequence[Symbol], width: int) -> str:
    names = max((len(symbol.name) for symbol in symbols), default=0)
    values = max((len(f"{symbol.value:,}") for symbol in symbols), default=0)
    lines = [
        wrap(f"  {symbol.name:<{names}}  {symbol.value:>{values},}  ", symbol.meaning, width)
        for symbol in symbols
    ]
    return "\n".join(["where", *lines, wrap("", _NOTE, width)])
