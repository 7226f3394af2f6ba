"""Rules of prompts that are longer than the plan takes, as far as a vocabulary alone can say."""

from collections.abc import Iterator

from gkdplan.diagnostics import Severity
from gkdplan.facts.model import Facts
from gkdplan.facts.prompts import NUM_KEPT
from gkdplan.planner.checks.rule import Finding, rule
from gkdplan.planner.token_bounds import TokenBound
from gkdplan.spec.plan import Plan

MOST = 2
"""Times the limit up to which tokens are counted."""
FATES = {
    "delete": "these rows are left out",
    "left": "these prompts lose their beginning",
    "right": "these prompts lose their end",
}


@rule("GK445")
def no_prompt_stops_the_run(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """With `truncation = "error"` a run refuses the first prompt that is too long."""
    if plan.data.truncation == "error":
        others = 'or set `data.truncation` to "delete", "left" or "right"'
        yield from _findings(plan, facts, "the run stops there", others)


@rule("GK446", Severity.WARNING)
def prompts_are_kept_whole(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """What `truncation` does to a row is said before it happens."""
    if plan.data.truncation != "error":
        yield from _findings(plan, facts, FATES[plan.data.truncation])


RULES = (no_prompt_stops_the_run, prompts_are_kept_whole)


def _findings(plan: Plan, facts: Facts, fate: str, *others: str) -> Iterator[Finding]:
    limit = plan.data.max_length
    for key, places in _too_long(plan, facts):
        yield Finding(
            f"{_named(places)} longer than `data.max_length` {limit:,}",
            key,
            label=f'`data.truncation = "{plan.data.truncation}"`: {fate}',
            notes=tuple(
                f"the words at {place} are {least:,} tokens or more"
                for place, least in places.items()
            ),
            help=(f"raise `data.max_length` to {max(places.values())} or more", *others),
        )


def _too_long(plan: Plan, facts: Facts) -> Iterator[tuple[str, dict[str, int]]]:
    """Of each data file the places of prompts that are surely too long, with their least tokens;
    the longest few were looked at. A byte is a token at most, so that shorter texts surely fit."""
    tokenizer, limit = facts.student.tokenizer, plan.data.max_length
    if tokenizer is None or not tokenizer.is_byte_level:
        return
    bound: TokenBound | None = None
    for split, files in (("train", facts.train), ("eval", facts.eval)):
        for index, file in enumerate(files):
            places = {}
            for prompt in file.longest_prompts:
                if prompt.num_bytes > limit:
                    bound = bound or TokenBound(tokenizer.tokens)
                    least = bound.least(prompt.texts, MOST * limit)
                    if least > limit:
                        places[prompt.place] = least
            if places:
                yield f"data.{split}[{index}]", places


def _named(places: dict[str, int]) -> str:
    first, *others = places
    if not others:
        return f"the prompt at {first} is"
    more = " or more" if len(places) == NUM_KEPT else ""
    return f"{len(places)}{more} prompts, such as at {first}, are"
