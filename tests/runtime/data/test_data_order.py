"""Which rows a step, a rank and a micro-batch learn from."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gkdplan.diagnostics import UserError
from gkdplan.runtime.data.order import Order, require_global_batch, rows_of_rank


def rows_of_step(num_rows, global_rows, step, seed, shuffle):
    return Order((num_rows,), seed, shuffle).rows_of_step(global_rows, step)


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


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    data=st.data(),
    global_rows=st.integers(1, 8),
    seed=st.integers(0, 99),
    shuffle=st.booleans(),
)
def test_weighted_files_hold_their_share_of_every_epoch(sizes, data, global_rows, seed, shuffle):
    assume(sum(sizes) >= global_rows)
    numbers = st.floats(0.01, 9.0)
    weights = tuple(data.draw(st.lists(numbers, min_size=len(sizes), max_size=len(sizes))))
    order = Order(tuple(sizes), seed, shuffle, weights)
    num_steps = sum(sizes) // global_rows
    begins = [sum(sizes[:i]) for i in range(len(sizes))]
    seen = [[0] * size for size in sizes]
    for epoch in range(3):
        steps = range(epoch * num_steps + 1, (epoch + 1) * num_steps + 1)
        rows = [row for step in steps for row in order.rows_of_step(global_rows, step)]
        files = [max(i for i, begin in enumerate(begins) if begin <= row) for row in rows]
        for file, weight in enumerate(weights):
            assert abs(files.count(file) - weight / sum(weights) * len(rows)) < 1
        for row, file in zip(rows, files, strict=True):
            seen[file][row - begins[file]] += 1
    for counts in seen:  # a file is read round after round: no row twice more than another
        assert max(counts) - min(counts) <= 1


def test_a_mixed_step_needs_no_step_before_it():
    order = Order((20, 7, 3), 5, True, (1.0, 1.0, 2.0))
    rising = [order.rows_of_step(4, step) for step in range(1, 30)]
    falling = [order.rows_of_step(4, step) for step in range(29, 0, -1)]
    assert rising == falling[::-1]


def test_unshuffled_weighted_files_alternate():
    order = Order((4, 4), 0, False, (1.0, 1.0))
    assert order.rows_of_step(8, 1) == (0, 4, 1, 5, 2, 6, 3, 7)
    assert Order((4, 4), 0, False, (3.0, 1.0)).rows_of_step(4, 1) == (0, 1, 4, 2)
