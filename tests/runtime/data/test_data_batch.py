"""Micro-batches as tensors: padding, and which positions predict the response."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from gkdplan.runtime.data.batch import collate

PAD = 0
tokens = st.integers(1, 99)
rows = st.lists(
    st.tuples(st.lists(tokens, min_size=1, max_size=6), st.lists(tokens, max_size=6)),
    min_size=1,
    max_size=5,
)


def uncollate(batch, prompt_lengths):
    """The rows back from the tensors, with no help of `predict_N`."""
    for row, length in zip(batch.tokens_BS.tolist(), prompt_lengths, strict=True):
        unpadded = [token for token in row if token != PAD]
        yield unpadded[:length], unpadded[length:]


def test_two_rows_by_hand():
    batch = collate([((5, 6, 7), (8,)), ((9,), (1, 2))], pad_id=PAD)
    assert batch.tokens_BS.tolist() == [[5, 6, 7, 8], [9, 1, 2, 0]]
    # row 0 has width 4: token 8 at position 3 is predicted at 2; row 1 starts at 4
    assert batch.predict_N.tolist() == [2, 4, 5]
    assert batch.labels_N.tolist() == [8, 1, 2]
    assert batch.num_response_tokens == 3


@given(rows)
def test_the_rows_come_back_out_of_the_tensors(rows):
    batch = collate(rows, pad_id=PAD)
    assert list(uncollate(batch, [len(prompt) for prompt, _ in rows])) == rows
    assert batch.tokens_BS.dtype == batch.predict_N.dtype == batch.labels_N.dtype == torch.int64


@given(rows)
def test_each_label_is_the_token_after_the_position_that_predicts_it(rows):
    batch = collate(rows, pad_id=PAD)
    following = torch.roll(batch.tokens_BS, -1, dims=1).flatten()
    assert torch.equal(following[batch.predict_N], batch.labels_N)
    assert batch.num_response_tokens == sum(len(response) for _, response in rows)


def test_responses_that_are_all_empty_leave_nothing_to_predict():
    batch = collate([((5, 6), ()), ((7,), ())], pad_id=PAD)
    assert batch.tokens_BS.tolist() == [[5, 6], [7, 0]]
    assert batch.num_response_tokens == 0
    assert batch.tokens_BS.flatten()[batch.predict_N].shape == (0,)


def test_a_batch_moves_whole():
    moved = collate([((5,), (6,))], pad_id=PAD).to("meta")
    assert {t.device.type for t in (moved.tokens_BS, moved.predict_N, moved.labels_N)} == {"meta"}
