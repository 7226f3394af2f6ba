"""Micro-batches as tensors: padding, and which positions predict the response."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from gkdplan.planner.layout import token_multiple
from gkdplan.planner.zigzag import most_response_tokens
from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runtime.data.batch import Row, RowShare, collate, micro_batches, row_share

PAD = 0
tokens = st.integers(1, 99)
rows = st.lists(
    st.builds(
        Row, st.lists(tokens, min_size=1, max_size=6), st.lists(tokens, max_size=6), st.just(())
    ),
    min_size=1,
    max_size=5,
)


def uncollate(batch, prompt_lengths):
    """The rows back from the tensors, with no help of `predict_N`."""
    for row, length in zip(batch.tokens_BS.tolist(), prompt_lengths, strict=True):
        unpadded = [token for token in row if token != PAD]
        yield Row(unpadded[:length], unpadded[length:])


def test_two_rows_by_hand():
    batch = collate([Row((5, 6, 7), (8,)), Row((9,), (1, 2))], pad_id=PAD)
    assert batch.tokens_BS.tolist() == [[5, 6, 7, 8], [9, 1, 2, 0]]
    # row 0 has width 4: token 8 at position 3 is predicted at 2; row 1 starts at 4
    assert batch.predict_N.tolist() == [2, 4, 5]
    assert batch.labels_N.tolist() == [8, 1, 2]
    assert batch.num_response_tokens == 3


@given(rows)
def test_the_rows_come_back_out_of_the_tensors(rows):
    batch = collate(rows, pad_id=PAD)
    assert list(uncollate(batch, [len(row.prompt) for row in rows])) == rows
    assert batch.tokens_BS.dtype == batch.predict_N.dtype == batch.labels_N.dtype == torch.int64


@given(rows)
def test_each_label_is_the_token_after_the_position_that_predicts_it(rows):
    batch = collate(rows, pad_id=PAD)
    following = torch.roll(batch.tokens_BS, -1, dims=1).flatten()
    assert torch.equal(following[batch.predict_N], batch.labels_N)
    assert batch.num_response_tokens == sum(len(row.response) for row in rows)


def test_responses_that_are_all_empty_leave_nothing_to_predict():
    batch = collate([Row((5, 6), ()), Row((7,), ())], pad_id=PAD)
    assert batch.tokens_BS.tolist() == [[5, 6], [7, 0]]
    assert batch.num_response_tokens == 0
    assert batch.tokens_BS.flatten()[batch.predict_N].shape == (0,)


def test_a_batch_moves_whole():
    moved = collate([Row((5,), (6,))], pad_id=PAD).to("meta")
    assert {t.device.type for t in (moved.tokens_BS, moved.predict_N, moved.labels_N)} == {"meta"}


def test_two_context_ranks_take_every_place_and_every_learnt_token_once():
    rows = [
        Row(range(100, 109), range(200, 206)),
        Row(range(300, 304), range(400, 403)),
    ]
    shares = [RowShare(rank, 2, 8) for rank in (0, 1)]
    assert [share.places(15) for share in shares] == [
        [0, 1, 2, 3, 12, 13, 14, 15],
        [4, 5, 6, 7, 8, 9, 10, 11],
    ]
    batches = [collate(rows, pad_id=7, share=share) for share in shares]
    assert batches[0].tokens_BS.tolist() == [
        [100, 101, 102, 103, 203, 204, 205, 7],
        [300, 301, 302, 303, 7, 7, 7, 7],
    ]
    # The tokens at places 8 to 13 and 3 to 5 predict the responses.
    assert batches[0].predict_N.tolist() == [4, 5, 8 + 3]
    assert batches[0].labels_N.tolist() == [204, 205, 400]
    assert batches[1].predict_N.tolist() == [4, 5, 6, 7, 8 + 0, 8 + 1]
    assert batches[1].labels_N.tolist() == [200, 201, 202, 203, 401, 402]


@given(rows, st.integers(1, 3))
def test_micro_batches_of_one_width_hold_the_same_rows(rows, size):
    ragged, even = (
        micro_batches(rows, size, PAD, RowShare(), one_width=one_width)
        for one_width in (False, True)
    )
    assert len({batch.tokens_BS.size(1) for batch in even}) == 1
    lengths = [len(row.prompt) for row in rows]
    for start, batch, other in zip(range(0, len(rows), size), ragged, even, strict=True):
        mine = rows[start : start + size]
        assert batch.tokens_BS.size(1) == max(len(r.prompt) + len(r.response) for r in mine)
        assert list(uncollate(other, lengths[start : start + size])) == mine
        assert other.labels_N.tolist() == batch.labels_N.tolist()


@given(st.integers(1, 80), st.integers(1, 80), st.integers(1, 6), st.integers(1, 4), st.booleans())
def test_the_planner_counts_the_response_tokens_of_the_fullest_context_rank(
    prompt, response, context, tensor, sequence
):
    degrees = AxisDegrees(tensor, sequence, data=1, context=context)
    row = Row([1] * prompt, [2] * response)
    counts = [
        collate([row], PAD, row_share(degrees, rank)).num_response_tokens for rank in range(context)
    ]
    multiple = token_multiple(degrees)
    width = -(-(prompt + response) // multiple) * multiple
    assert most_response_tokens(prompt, response, width, context) == max(counts)
    assert sum(counts) == response
    for start in range(context):
        for num in range(1, context + 1):
            ranks = range(start, start + num)
            of_ranks = max(counts[rank % context] for rank in ranks)
            assert most_response_tokens(prompt, response, width, context, ranks) == of_ranks


def test_the_fullest_rank_of_a_billion_is_found_without_asking_each():
    billion = 10**9
    assert most_response_tokens(billion, billion, 4 * billion, billion) == 2
