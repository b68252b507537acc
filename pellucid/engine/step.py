"""From a StepPlan to a Batch: the only place where lists become arrays."""

from __future__ import annotations

import numpy as np

from pellucid.engine.plan import StepPlan
from pellucid.executors.base import BLOCK_SIZE, Batch


def build_batch(plan: StepPlan) -> tuple[Batch, list[range]]:
    """The arrays of one step, and for each scheduled request its own rows of the logits [R, V].

    A request has logits for its computed tokens from `first_logit_position` on: none while a prompt is unfinished, one
    when it catches up and one more for each draft token, many when log-probabilities of the prompt are wanted. One with
    a readout has what that wants, and if it reads hidden states, its rows are those of the hidden states [P, E].
    """
    counts = np.array([s.count for s in plan.scheduled], np.int32)
    starts = np.array([s.start for s in plan.scheduled], np.int32)
    query_start = np.zeros(len(counts) + 1, np.int32)
    np.cumsum(counts, out=query_start[1:])

    num_groups = len(plan.scheduled[0].block_tables)
    num_blocks = max(len(table) for s in plan.scheduled for table in s.block_tables)
    block_tables = np.full((num_groups, len(counts), num_blocks), -1, np.int32)  # [G, B, blocks]
    token_ids: list[int] = []
    logit_rows: list[int] = []
    hidden_rows: list[int] = []
    own_rows: list[range] = []
    for b, s in enumerate(plan.scheduled):
        for g, table in enumerate(s.block_tables):
            block_tables[g, b, : len(table)] = table
        readout, end = s.request.readout, s.start + s.count
        token_ids += s.request.token_ids[s.start : end]
        token_ids += s.request.draft_token_ids[: max(0, end - s.request.num_tokens)]
        first = max(s.start, s.request.first_logit_position)
        last = end if readout is None else min(end, readout.wanted.stop)
        offset = int(query_start[b]) - s.start
        rows = range(offset + first, offset + last)
        wanted = hidden_rows if readout is not None and readout.reads == "hidden" else logit_rows
        own_rows.append(range(len(wanted), len(wanted) + len(rows)))
        wanted += rows

    sequence = np.repeat(np.arange(len(counts)), counts)  # [T], the b of each token
    positions = np.arange(len(token_ids)) - np.repeat(query_start[:-1] - starts, counts)  # [T]
    blocks = block_tables[:, sequence, positions // BLOCK_SIZE].astype(np.int64)  # [G, T]
    batch = Batch(
        token_ids=np.array(token_ids, np.int32),
        positions=positions.astype(np.int32),
        slot_mapping=blocks * BLOCK_SIZE + positions % BLOCK_SIZE,
        block_tables=block_tables,
        query_start=query_start,
        seq_lens=starts + counts,
        logit_rows=np.array(logit_rows, np.int32),
        hidden_rows=np.array(hidden_rows, np.int32),
    )
    return batch, own_rows
