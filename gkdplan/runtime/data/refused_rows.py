"""Why rows of a plan cannot be learnt from, once their tokens are known."""

from collections.abc import Sequence

from gkdplan.diagnostics import UserError, error
from gkdplan.runplan.model import DataPlan, DataSource
from gkdplan.runtime.data.rows import Row
from gkdplan.runtime.data.tokenise import Tokens


def cut_images(prompt: Tokens, row: Row, data: DataPlan) -> UserError:
    return UserError(
        error(
            "GK489",
            f"the row at `{row.location}` shows images in a prompt of {len(prompt):,} tokens, "
            f"longer than `data.max_length` = {data.max_length:,}",
            "data.max_length",
            label=f'`data.truncation = "{data.truncation}"` would cut through an image',
            help=(
                f'raise `data.max_length` to {len(prompt)}, or set `data.truncation` to "delete"',
            ),
        )
    )


def too_long(prompt: Tokens, row: Row, data: DataPlan) -> UserError:
    return UserError(
        error(
            "GK476",
            f"the row at `{row.location}` has a prompt of {len(prompt):,} tokens, "
            f"longer than `data.max_length` = {data.max_length:,}",
            "data.max_length",
            label='`data.truncation = "error"` refuses it',
            help=(
                f"raise `data.max_length` to {len(prompt)}, or set `data.truncation` "
                'to "delete", "left" or "right"',
            ),
        )
    )


def all_too_long(lengths: Sequence[int], key: str, data: DataPlan) -> UserError:
    return UserError(
        error(
            "GK476",
            f"no row of `{key}` is left: all {len(lengths):,} prompts are longer than "
            f"`data.max_length` = {data.max_length:,}",
            "data.max_length",
            label='`data.truncation = "delete"` leaves them out',
            help=(
                f"raise `data.max_length` to {max(lengths)} to keep all of them "
                f"({min(lengths)} for the shortest), or set `data.truncation` to "
                '"left" or "right"',
            ),
        )
    )


def no_row(source: DataSource, key: str) -> UserError:
    return UserError(
        error(
            "GK476",
            f"no row of `{source.path}` is left: its share of an epoch cannot be taken",
            key,
            label="`data.weights` gives the file a share",
            help=("raise `data.max_length`, or take the file and its weight out",),
        )
    )


def no_response(row: Row, key: str) -> UserError:
    return UserError(
        error(
            "GK478",
            f"the row at `{row.location}` holds no response",
            key,
            label="some steps learn from the dataset's responses",
            help=(
                "give every row a response, or set `distill.lmbda` or `distill.seq_kd` to 1 "
                "with a generation engine",
            ),
        )
    )
