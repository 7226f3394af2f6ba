"""The formula of each number of the ledger: the ledger, priced once more in named numbers."""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import accumulate, pairwise

from gkdplan.facts.model import Device
from gkdplan.planner.draft import Draft
from gkdplan.planner.memory import buffer
from gkdplan.planner.memory.quantity import Monomial, polynomial_of
from gkdplan.planner.memory.symbol_names import ORDER
from gkdplan.planner.memory.symbols import symbols_of, with_named_overhead, with_names
from gkdplan.planner.pricing import price_moves
from gkdplan.runplan.formula import Explanation, Symbol, Term
from gkdplan.runplan.steps import Move
from gkdplan.vocab import Phase

ORIGINS = {
    buffer.STUDENT_PARAMS: (
        "the student's parameters on the rank, padded as its gradient buffer is",
        "megatron/core/distributed/param_and_grad_buffer.py",
    ),
    buffer.STUDENT_GRADS: (
        "a float32 gradient of every parameter, padding included",
        "megatron/core/distributed/param_and_grad_buffer.py",
    ),
    buffer.STUDENT_STATE: (
        "float32 main weights, where they are copies, and Adam's two moments",
        "megatron/core/optimizer/distrib_optimizer.py",
    ),
    buffer.TEACHER_BODY: (
        "the teacher's weights but its output head",
        "megatron/core/models/gpt/gpt_model.py",
    ),
    buffer.TEACHER_HEAD: (
        "the teacher's output head, which the loss needs",
        "megatron/core/models/gpt/gpt_model.py",
    ),
    buffer.TEACHER_AVERAGE: (
        "the float32 average of the student's main weights, where the teacher's are narrower",
        "gkdplan/runtime/average.py",
    ),
    buffer.KV_CACHE: (
        "keys and values: Megatron's of every row at full length, vllm's what its share leaves",
        "docs/sampling.md",
    ),
    buffer.ENGINE_WEIGHTS: (
        "the student's weights once more, as vllm's tensor ranks divide them",
        "vllm/model_executor/layers/linear.py",
    ),
    buffer.REFIT_BUFFER: (
        "a bucket of whole weights, a tensor's gathered pieces, and the module that is reloaded",
        "vllm/model_executor/model_loader/reload/layerwise.py",
    ),
    buffer.GRAPHS: ("CUDA graphs of vllm: an assumption", "gkdplan/planner/engine.py"),
    buffer.ACTIVATIONS: (
        "what layers keep for the backward, and what passes, at the phase's fullest moment",
        "megatron/core/transformer/transformer_layer.py; Korthikanti et al., arXiv 2205.05198",
    ),
    buffer.LOSS_TILES: (
        "logits of a chunk of tokens and the gradients made beside them",
        "gkdplan/runtime/loss/linear.py",
    ),
    buffer.TEMPORARIES: (
        "token ids, gather buffer, rotary angles, copies of the optimizer and of saving",
        "megatron/core/utils.py, GlobalMemoryBuffer",
    ),
    buffer.CONTEXT: ("the device's context, outside torch's allocator", "the device table"),
    buffer.COMMUNICATORS: (
        "a communicator for each group in which the rank talks",
        "the device table; megatron/core/parallel_state.py",
    ),
    **dict.fromkeys(
        buffer.PAYLOADS.values(),
        ("what the teacher leaves for the loss", "gkdplan/runtime/teacher/payload.py"),
    ),
}
"""Row -> what it holds, and what its formula follows."""


def explain(draft: Draft, device: Device, moves: Sequence[Move]) -> tuple[Explanation, ...]:
    """Every row of every phase of every class of ranks, in the order of the ledger.

    The numbers cannot part from the ledger's: they are priced by the same functions.
    """
    return tuple(_explanations(draft, device, moves))


def _explanations(draft: Draft, device: Device, moves: Sequence[Move]) -> Iterator[Explanation]:
    named, overhead = with_names(draft), with_named_overhead(device)
    priced = price_moves(named, overhead, device.memory_bytes, moves)
    symbols = symbols_of(draft, device)
    for memory in priced.ledger.classes:
        for phase, in_phase in memory.phases.items():
            for row, num_bytes in in_phase.rows.items():
                yield _explanation(phase, row, memory.ranks, num_bytes, symbols)


def _explanation(
    phase: Phase,
    row: str,
    ranks: tuple[tuple[int, int], ...],
    num_bytes: int,
    symbols: Mapping[str, Symbol],
) -> Explanation:
    polynomial = polynomial_of(num_bytes)
    meaning, source = ORIGINS[row]
    used = {name for monomial in polynomial for name, _ in monomial}
    return Explanation(
        phase=phase,
        row=row,
        ranks=ranks,
        num_bytes=int(num_bytes),
        meaning=meaning,
        source=source,
        terms=_terms(polynomial, symbols),
        symbols=tuple(symbols[name] for name in sorted(used, key=_place)),
    )


def _terms(
    polynomial: Mapping[Monomial, Fraction], symbols: Mapping[str, Symbol]
) -> tuple[Term, ...]:
    """Largest first. Products that are no whole bytes are rounded so that the sum stays exact."""
    products = sorted(polynomial.items(), key=lambda p: -_value(p[0], p[1], symbols))
    values = [_value(*product, symbols) for product in products]
    bounds = [round(total) for total in accumulate(values, initial=Fraction(0))]
    names = {name: name for name in symbols}
    numbers = {name: f"{symbol.value:,}" for name, symbol in symbols.items()}
    return tuple(
        Term(_text(*product, names, " "), _text(*product, numbers, " x "), end - start)
        for product, (start, end) in zip(products, pairwise(bounds), strict=True)
    )


def _value(monomial: Monomial, coefficient: Fraction, symbols: Mapping[str, Symbol]) -> Fraction:
    value = coefficient
    for name, exponent in monomial:
        value *= Fraction(symbols[name].value) ** exponent
    return value


def _text(monomial: Monomial, coefficient: Fraction, words: Mapping[str, str], times: str) -> str:
    """`12 b s h / t`: what is multiplied, then what divides."""
    above: list[str] = []
    below: list[str] = []
    for name, exponent in sorted(monomial, key=_order):
        (above if exponent > 0 else below).extend([words[name]] * abs(exponent))
    if coefficient.denominator != 1:
        below.insert(0, f"{coefficient.denominator:,}")
    if coefficient.numerator != 1 or not above:
        above.insert(0, f"{coefficient.numerator:,}")
    return " / ".join([times.join(above), *below])


def _order(factor: tuple[str, int]) -> tuple[int, str]:
    return _place(factor[0])


def _place(name: str) -> tuple[int, str]:
    return ORDER.index(name.rstrip("'")), name
