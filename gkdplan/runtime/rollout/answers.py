"""What an engine must not answer: each is found before a token is learnt from."""

from collections.abc import Sequence

from gkdplan.diagnostics import UserError, error
from gkdplan.runtime.rollout.engine import Completion


def checked(
    completions: Sequence[Completion], vocab_size: int, version: int, engine: str
) -> list[Completion]:
    """The completions, where `engine` drew all of them from weights of `version` and from the first
    `vocab_size` ids.

    Raises UserError: GK571 for other weights, GK572 for another id.
    """
    for completion in completions:
        if completion.weights_version != version:
            raise _stale(completion.weights_version, version, engine)
        for token in completion.tokens:
            if not 0 <= token < vocab_size:
                raise _outside(token, vocab_size, engine)
    return list(completions)


def logits_are_not_finite(engine: str) -> UserError:
    """GK570."""
    return UserError(
        error(
            "GK570",
            f"{engine} found logits that are not finite while it sampled",
            "generation.engine",
            label="nothing can be drawn from them",
            help=(
                "lower `optimizer.lr` where the student diverged; "
                'or set `student.dtype` to "fp32" where its numbers overflow',
            ),
        )
    )


def _stale(found: int, wanted: int, engine: str) -> UserError:
    drawn = "no single version that this run sent" if found < 0 else f"version {found}"
    return UserError(
        error(
            "GK571",
            f"{engine} sampled from {drawn} of the weights, and version {wanted} was sent to it",
            "generation.engine",
            label="the step would learn from another model's responses",
            help=("let no one else update its weights, and resume",),
        )
    )


def _outside(token: int, vocab_size: int, engine: str) -> UserError:
    return UserError(
        error(
            "GK572",
            f"{engine} sampled id {token:,}, and the vocabulary has {vocab_size:,}",
            "generation.engine",
            label="no tokenizer knows it",
            help=("serve the student of the plan, with its own config.json",),
        )
    )
