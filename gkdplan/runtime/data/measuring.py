"""Every row of a plan as tokens, before a run: how long they are, and what a run would refuse."""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from gkdplan.diagnostics import Diagnostic, UserError, warning
from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.row_lengths import Histogram, Lengths, SplitLengths
from gkdplan.runtime.data.bad_rows import FAULTS_OF_A_ROW, BadRows
from gkdplan.runtime.data.examples import fit_prompt, teacher_column
from gkdplan.runtime.data.order import require_global_batch
from gkdplan.runtime.data.refused_rows import all_too_long, no_response
from gkdplan.runtime.data.rows import Item, read_items, read_row
from gkdplan.runtime.data.tokenise import Renderer, TokenisedRow, tokenise

Advance = Callable[[], None]
NOT_FETCHED = "GK497"


@dataclass(slots=True)
class _Seen:
    """What was seen of a split; `refusals` are what would end a run. `num_unfetched` rows, of
    which `unfetched` says the first, show images that were not fetched yet."""

    prompts: "array[int]" = field(default_factory=lambda: array("I"))
    responses: "array[int]" = field(default_factory=lambda: array("I"))
    totals: "array[int]" = field(default_factory=lambda: array("I"))
    digests: set[bytes] = field(default_factory=set)
    long: "array[int]" = field(default_factory=lambda: array("I"))
    num_unanswered: int = 0
    num_empty: int = 0
    num_cut: int = 0
    num_tokens_cut: int = 0
    num_unfetched: int = 0
    unfetched: str = ""
    bad_rows: list[Diagnostic] = field(default_factory=list)
    refusals: list[Diagnostic] = field(default_factory=list)


def measure(
    plan: RunPlan,
    chat: Renderer,
    advance: Advance,
    *,
    needs_responses: bool,
) -> tuple[list[SplitLengths], tuple[Diagnostic, ...]]:
    """The lengths of `data.train` and, where there are such rows, `data.eval`, and what a run would
    refuse of them; `advance` is called after each row. Nothing is fetched: rows with images that
    were not are counted apart (GK497).

    Raises UserError (GK469 to GK471) where a file cannot be read.
    """
    splits, refusals = [], []
    for key, sources in (("data.train", plan.data.train), ("data.eval", plan.data.eval)):
        if not sources:
            continue
        seen = _Seen()
        for index, source in enumerate(sources):
            bad = BadRows(plan.data.max_bad_rows)
            row_key = f"{key}[{index}]"
            for item in read_items(source, row_key):
                _see(item, row_key, plan, chat, bad, seen, needs_responses and key == "data.train")
                advance()
        splits.append(_lengths(key, seen))
        refusals += seen.refusals
        refusals += _too_few(key, seen, plan)
        if seen.num_unfetched:
            refusals.append(_not_fetched(key, seen, plan))
    return splits, tuple(refusals)


def _see(
    item: Item,
    key: str,
    plan: RunPlan,
    chat: Renderer,
    bad: BadRows,
    seen: _Seen,
    needs_responses: bool,
) -> None:
    try:
        row = read_row(item, key, *teacher_column(plan.models.teacher.server))
        whole = tokenise(row, chat, key)
    except UserError as refusal:
        if refusal.diagnostics[0].code == NOT_FETCHED:
            seen.num_unfetched += 1
            seen.unfetched = seen.unfetched or refusal.diagnostics[0].message
            return
        seen.bad_rows += [d for d in refusal.diagnostics if d.code in FAULTS_OF_A_ROW]
        _refuse(seen, refusal, bad)
        return
    seen.prompts.append(len(whole.prompt))
    if whole.response is None:
        seen.num_unanswered += 1
        if needs_responses:
            _refuse(seen, no_response(row, key))
    else:
        seen.responses.append(len(whole.response))
    try:
        prompt = fit_prompt(whole, row, plan.data)
    except UserError as refusal:
        _refuse(seen, refusal)
        prompt = None
    if prompt != whole.prompt:
        seen.long.append(len(whole.prompt))
    if prompt is not None:
        _take(whole, len(prompt), plan.sampling.max_completion_length, seen)


def _refuse(seen: _Seen, refusal: UserError, bad: BadRows | None = None) -> None:
    """Keep what would end a run: the first of each code, as the others are counted."""
    try:
        if bad is None:
            raise refusal
        bad.leave_out(refusal)
    except UserError as final:
        known = {found.code for found in seen.refusals}
        seen.refusals += [found for found in final.diagnostics if found.code not in known]


def _take(whole: TokenisedRow, num_prompt: int, max_completion: int, seen: _Seen) -> None:
    response = whole.response or ()
    num_kept = min(len(response), max_completion)
    seen.num_empty += len(response) == 1
    seen.num_cut += num_kept < len(response)
    seen.num_tokens_cut += len(response) - num_kept
    seen.totals.append(num_prompt + num_kept)
    ids = array("I", (*whole.prompt, len(whole.prompt), *response))
    seen.digests.add(blake2b(ids.tobytes(), digest_size=12).digest())


def _lengths(key: str, seen: _Seen) -> SplitLengths:
    return SplitLengths(
        key=key,
        num_rows=len(seen.prompts),
        num_taken=len(seen.totals),
        num_long=len(seen.long),
        num_unanswered=seen.num_unanswered,
        num_empty=seen.num_empty,
        num_cut=seen.num_cut,
        num_tokens_cut=seen.num_tokens_cut,
        num_repeated=len(seen.totals) - len(seen.digests),
        num_unfetched=seen.num_unfetched,
        prompts=Lengths.of(seen.prompts),
        responses=Lengths.of(seen.responses),
        totals=Histogram.of(seen.totals),
        bad_rows=tuple(seen.bad_rows),
    )


def _too_few(key: str, seen: _Seen, plan: RunPlan) -> Sequence[Diagnostic]:
    if seen.refusals or seen.num_unfetched:
        return ()
    if seen.long and not seen.totals:
        return all_too_long(seen.long, key, plan.data).diagnostics
    try:
        if key == "data.train":
            require_global_batch(len(seen.totals), plan.batch.global_rows)
    except UserError as refusal:
        return refusal.diagnostics
    return ()


def _not_fetched(key: str, seen: _Seen, plan: RunPlan) -> Diagnostic:
    beforehand = "fetch them beforehand: `gkdplan check --data --fetch`"
    if plan.data.cache is None:
        beforehand += ", once `data.cache` says where they are kept"
    return warning(
        NOT_FETCHED,
        f"{seen.num_unfetched:,} rows of `{key}` are not counted: their images were not fetched",
        key,
        notes=(seen.unfetched, "a run fetches them before its first step"),
        help=(beforehand,),
    )
