"""Which rows a step, a rank and a micro-batch learn from."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gkdplan.diagnostics import UserError
from gkdplan.runtime.data.order import require_global_batch, rows_of_rank, rows_of_step


@given(
    num_rows=st.integers(1, 60),
    global_rows=st.integers(1, 12),
    epoch=st.integers(0, 3),
    seed=st.integers(0, 2**40),
    shuffle=st.booleans(),
)
def test_an_epoch_takes_no_row_twice_and_drops_less_than_a_batch(
    num_rows, global_rows, epoch, seed, shuffle
):
    assume(num_rows >= global_rows)
    steps_per_epoch = num_rows // global_rows
    steps = range(epoch * steps_per_epoch + 1, (epoch + 1) * steps_per_epoch + 1)
    rows = [
        row for step in steps for row in rows_of_step(num_rows, global_rows, step, seed, shuffle)
    ]
    assert len(rows) == len(set(rows)) == num_rows - num_rows % global_rows
    assert set(rows) <= set(range(num_rows))


@given(
    num_micro_batches=st.integers(1, 6),
    data_size=st.integers(1, 6),
    micro_rows=st.integers(1, 4),
)
def test_the_micro_batches_of_all_data_ranks_are_those_of_one_process(
    num_micro_batches, data_size, micro_rows
):
    indices = range(100, 100 + num_micro_batches * data_size * micro_rows)
    ranks = [rows_of_rank(indices, rank, data_size, micro_rows) for rank in range(data_size)]
    assert {len(micro_batches) for micro_batches in ranks} == {num_micro_batches}
    dealt_in_turn = [batch for turn in zip(*ranks, strict=True) for batch in turn]
    assert dealt_in_turn == rows_of_rank(indices, 0, 1, micro_rows)
    assert [row for batch in dealt_in_turn for row in batch] == list(indices)


def test_a_step_needs_no_state_of_the_steps_before_it():
    rising = [rows_of_step(50, 8, step, 7, True) for step in range(1, 20)]
    falling = [rows_of_step(50, 8, step, 7, True) for step in range(19, 0, -1)]
    assert rising == falling[::-1]


def test_epochs_and_seeds_are_shuffled_differently():
    first = rows_of_step(50, 50, 1, 7, True)
    assert first != rows_of_step(50, 50, 2, 7, True)
    assert first != rows_of_step(50, 50, 1, 8, True)
    assert sorted(first) == list(range(50))


def test_without_shuffling_the_file_s_order_is_kept_and_epochs_repeat():
    assert rows_of_step(5, 2, 1, 0, False) == (0, 1)
    assert rows_of_step(5, 2, 2, 0, False) == (2, 3)
    assert rows_of_step(5, 2, 3, 0, False) == (0, 1)


def test_too_few_rows_for_one_global_batch_are_refused():
    with pytest.raises(UserError, match=r"GK479: 7 usable rows.*global batch of 8"):
        require_global_batch(7, 8)
    require_global_batch(8, 8)
