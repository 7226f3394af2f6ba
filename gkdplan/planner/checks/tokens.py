"""Rules of what both models read: one token -> id map, one end of text, one chat template."""

from collections.abc import Iterator

from gkdplan.diagnostics import Severity
from gkdplan.facts.model import Facts, TokenizerFacts
from gkdplan.facts.vocabulary import TokenDifference, differences
from gkdplan.planner.checks.rule import Finding, rule
from gkdplan.planner.models import true_vocab_size
from gkdplan.spec.plan import Plan
from gkdplan.text import shown


@rule("GK401")
def token_maps_are_equal(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """The loss compares probabilities id by id, so an id must mean one token on both sides."""
    for student, teacher in _both(facts):
        found = differences(student, teacher)
        if found.num_tokens:
            yield Finding(
                f"teacher and student give {found.num_tokens:,} tokens different ids",
                "teacher.model",
                label="the loss would compare unrelated tokens",
                notes=tuple(map(_ids, found.first)),
                help=("take a teacher of the student's family, whose tokenizer is the same",),
            )


@rule("GK402", Severity.WARNING)
def end_tokens_are_equal(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """Responses end with the student's end-of-text token, which this teacher does not expect."""
    for student, teacher in _both(facts):
        if student.eos_token != teacher.eos_token:
            yield Finding(
                f"the student ends a text with {_named(student.eos_token)}, the teacher with "
                f"{_named(teacher.eos_token)}",
                "teacher.model",
                label="the student's is used, and the teacher rarely expects it",
                notes=("the token that closes a turn of the chat template ends a response too",),
            )


@rule("GK403", Severity.WARNING)
def chat_templates_are_equal(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """Both models read prompts that the student's template rendered."""
    for student, teacher in _both(facts):
        templates = (student.chat_template, teacher.chat_template)
        if None not in templates and templates[0] != templates[1]:
            yield Finding(
                "teacher and student have different chat templates",
                "teacher.model",
                label="the student's is used for both",
                notes=("a teacher may judge worse what its own template did not render",),
            )


@rule("GK404")
def messages_have_a_template(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """Rows of `messages` become text through the student's chat template."""
    tokenizer = facts.student.tokenizer
    if tokenizer is None or tokenizer.chat_template is not None:
        return
    for split, files in (("train", facts.train), ("eval", facts.eval)):
        for index, file in enumerate(files):
            if file.num_rows_with_messages:
                yield Finding(
                    f"{file.path} has rows of `messages`, and the student has no chat template",
                    f"data.{split}[{index}]",
                    label="nothing says how turns become text",
                    notes=(f"no chat template beside {facts.student.origin}",),
                    help=(
                        "write the rows as `prompt` and `completion`, or take a student with a "
                        "chat template",
                    ),
                )


@rule("GK405", Severity.NOTE)
def vocabulary_is_known(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """Without a tokenizer the true vocabulary is a guess from the two embeddings."""
    if facts.student.tokenizer is None and facts.teacher.tokenizer is None:
        yield Finding(
            f"no tokenizer was seen, so the loss is taken over {true_vocab_size(facts):,} ids, the "
            "rows of the smaller embedding",
            "student.model",
        )


RULES = (
    token_maps_are_equal,
    end_tokens_are_equal,
    chat_templates_are_equal,
    messages_have_a_template,
    vocabulary_is_known,
)


def _both(facts: Facts) -> Iterator[tuple[TokenizerFacts, TokenizerFacts]]:
    """The two tokenizers, where both were seen."""
    student, teacher = facts.student.tokenizer, facts.teacher.tokenizer
    if student is not None and teacher is not None:
        yield student, teacher


def _named(token: str | None) -> str:
    return "no token" if token is None else shown(token)


def _ids(difference: TokenDifference) -> str:
    student, teacher = (
        "unknown" if token_id is None else f"{token_id:,}"
        for token_id in (difference.left, difference.right)
    )
    return f"{shown(difference.token)}: {student} in the student, {teacher} in the teacher"
