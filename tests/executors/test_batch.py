"""Batch.check: a batch that does not fit its program is refused before anything is read or written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.steps import make_batch, new_sequences

from pellucid.errors import ExecutorError
from pellucid.executors.base import Batch, KVGroup

NUM_BLOCKS, VOCAB = 8, 50
GROUPS = (KVGroup(0, NUM_BLOCKS),)


def good() -> Batch:
    """Three sequences: 20 tokens at once, the 18th token alone, and tokens 3 to 6."""
    first, second, third = new_sequences(NUM_BLOCKS, [[1] * 20, [2] * 18, [3] * 7])
    second.num_computed, third.num_computed = 17, 3
    return make_batch([(first, 20), (second, 1), (third, 4)], [19, 20, 24])


def changed(name: str, index: int | tuple[int, ...], value: int) -> Callable[[Batch], Batch]:
    def change(batch: Batch) -> Batch:
        array = getattr(batch, name).copy()
        array[index] = value
        return replace(batch, **{name: array})

    return change


def cut(name: str) -> Callable[[Batch], Batch]:
    return lambda batch: replace(batch, **{name: getattr(batch, name)[:-1]})


def typed(name: str, dtype: Any) -> Callable[[Batch], Batch]:
    return lambda batch: replace(batch, **{name: getattr(batch, name).astype(dtype)})


def two_tokens_in_one_slot(batch: Batch) -> Batch:
    tables = batch.block_tables.copy()
    tables[:, 2] = tables[:, 0]  # the third sequence's tokens 3 to 6 land on the first one's
    return replace(
        batch,
        block_tables=tables,
        slot_mapping=np.concatenate([batch.slot_mapping[:, :21], batch.slot_mapping[:, 3:7]], axis=1),
    )


REFUSED: dict[str, tuple[Callable[[Batch], Batch], str]] = {
    "token id = vocabulary size": (changed("token_ids", 3, VOCAB), "token_ids holds 50, expected 0 to 49"),
    "token id -1": (changed("token_ids", 3, -1), "token_ids holds -1"),
    "block past the end": (changed("block_tables", (0, 1, 1), NUM_BLOCKS), "block_tables holds 8, expected 0 to 7"),
    "negative block": (changed("block_tables", (0, 2, 0), -1), "block_tables holds -1"),
    "slot of another block": (changed("slot_mapping", (0, 4), 0), "slot_mapping does not follow"),
    "slot past the end": (changed("slot_mapping", (0, 4), NUM_BLOCKS * 16), "slot_mapping does not follow"),
    "two tokens in one slot": (two_tokens_in_one_slot, "two tokens to one KV slot"),
    "hidden row = tokens": (lambda b: replace(b, hidden_rows=np.array([25], np.int32)), "hidden_rows holds 25"),
    "hidden rows of another type": (lambda b: replace(b, hidden_rows=np.zeros(1)), "hidden_rows is float64"),
    "position skipped": (changed("positions", 5, 6), "positions are not"),
    "sequence shorter than its tokens": (changed("seq_lens", 0, 19), "positions are not"),
    "sequence longer than its blocks": (changed("seq_lens", 0, 33), "seq_lens holds 33, expected 0 to 32"),
    "negative length": (changed("seq_lens", 1, -5), "seq_lens holds -5"),
    "first row is not 0": (changed("query_start", 0, 1), "query_start does not rise from 0 to 25"),
    "last row is not T": (changed("query_start", 3, 24), "query_start does not rise"),
    "sequence without tokens": (changed("query_start", 1, 21), "query_start does not rise"),
    "logit row = T": (changed("logit_rows", 2, 25), "logit_rows holds 25, expected 0 to 24"),
    "positions too short": (cut("positions"), "positions has shape .24,., expected .25,."),
    "slots too short": (cut("slot_mapping"), "slot_mapping has shape .0, 25., expected .1, 25."),
    "tables too short": (cut("block_tables"), "block_tables has shape .0, 3, 2., expected .1, 3, 2."),
    "starts too short": (cut("query_start"), "query_start has shape .3,., expected .4,."),
    "tokens as int64": (typed("token_ids", np.int64), "token_ids is int64 with 1 axes, expected int32"),
    "slots as int32": (typed("slot_mapping", np.int32), "slot_mapping is int32 with 2 axes"),
    "one axis too few": (lambda b: replace(b, block_tables=b.block_tables[0]), "block_tables is int32 with 2 axes"),
}


def test_good_batches_pass() -> None:
    good().check(GROUPS, VOCAB)
    good().check(GROUPS, VOCAB, max_positions=20)
    replace(good(), logit_rows=np.zeros(0, np.int32)).check(GROUPS, VOCAB)


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    change, message = REFUSED[case]
    with pytest.raises(ExecutorError, match=message):
        change(good()).check(GROUPS, VOCAB)


def test_positions_have_a_limit_where_they_have_a_table() -> None:
    with pytest.raises(ExecutorError, match="positions holds 19, expected 0 to 18"):
        good().check(GROUPS, VOCAB, max_positions=19)


def test_empty_batch_is_refused() -> None:
    batch = make_batch([(sequence, 0) for sequence in new_sequences(NUM_BLOCKS, [[1]])], [])
    with pytest.raises(ExecutorError, match="query_start does not rise"):
        batch.check(GROUPS, VOCAB)
    nothing = replace(
        batch, block_tables=batch.block_tables[:, :0], seq_lens=batch.seq_lens[:0], query_start=batch.query_start[:1]
    )
    with pytest.raises(ExecutorError, match="query_start does not rise"):
        nothing.check(GROUPS, VOCAB)


def test_blocks_behind_the_window_need_not_be_there() -> None:
    """The second sequence computes its 18th token: with a window of 2 it sees tokens 16 and 17, of its second block."""
    batch = good()
    tables = batch.block_tables.copy()
    tables[0, 1, 0] = -1
    tables[0, 2, 1] = -1  # the third sequence has 7 tokens and no second block
    without = replace(batch, block_tables=tables)
    without.check((KVGroup(2, NUM_BLOCKS),), VOCAB)
    for window in (0, 3):  # these see token 15
        with pytest.raises(ExecutorError, match="block_tables holds -1"):
            without.check((KVGroup(window, NUM_BLOCKS),), VOCAB)


def test_every_group_has_its_own_blocks() -> None:
    first, second = new_sequences(NUM_BLOCKS, [[1] * 20, [2] * 18])
    batch = make_batch([(first, 20), (second, 18)], num_groups=2)
    batch.check((KVGroup(0, NUM_BLOCKS), KVGroup(8, NUM_BLOCKS)), VOCAB)
    with pytest.raises(ExecutorError, match="block_tables holds 7, expected 0 to 6"):
        batch.check((KVGroup(0, NUM_BLOCKS), KVGroup(8, 7)), VOCAB)
    with pytest.raises(ExecutorError, match="slot_mapping has shape"):
        batch.check(GROUPS, VOCAB)
