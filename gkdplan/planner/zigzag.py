"""Rows over the context axis: each rank takes an early and a late piece of every row."""


def most_response_tokens(
    prompt: int, response: int, width: int, context: int, ranks: range | None = None
) -> int:
    """Response tokens of one row on the rank that has most of them, of `ranks`, which count on
    from `context` - 1 to 0 again, or of all.

    The row holds `prompt` and `response` tokens and is padded to `width`, a multiple of twice
    `context`. Rank r takes pieces r and 2 context - 1 - r of the 2 context pieces
    (megatron/core/utils.py, get_batch_on_this_cp_rank). A token is learnt where the one before it
    stands: from the last position of the prompt to the last but one of the row.
    """
    if context == 1:
        return response
    ranks = ranks or range(context)
    piece, start = width // (2 * context), prompt - 1
    last = 2 * context - 1

    def learnt(index: int) -> int:
        first, end = max(index * piece, start), min((index + 1) * piece, start + response)
        return max(0, end - first)

    def rank_of(index: int) -> int:
        return max(0, min(index, last - index))

    # Of two pieces beside each other only those at the ends of the response differ.
    ends = start // piece, (start + response - 1) // piece
    unlike = {0, context - 1, *(rank_of(end + step) for end in ends for step in (-1, 0, 1))}
    asked = {rank for rank in unlike if (rank - ranks.start) % context < len(ranks)}
    asked |= {ranks[0] % context, ranks[-1] % context}
    return max(learnt(rank) + learnt(last - rank) for rank in asked)
