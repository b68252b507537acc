"""Run token ids through a compiled program in different ways: whole, in chunks, one by one, many sequences at once.

All give the logits of every position; a correct executor gives the same ones each way. Blocks are handed out in a
scrambled order, so that a program which ignores its block tables is found out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from pellucid.executors.base import BLOCK_SIZE, Batch, Program
from pellucid.graph.passes.hidden import HIDDEN

Logits = npt.NDArray[np.float32]


@dataclass
class TokenSequence:
    """A token sequence with its blocks, of which the first `num_computed` tokens are in the cache."""

    token_ids: list[int]
    blocks: list[int]
    num_computed: int = 0
    logits: list[Logits] = field(default_factory=list)


def new_sequences(num_blocks: int, prompts: Sequence[Sequence[int]]) -> list[TokenSequence]:
    """Sequences with blocks for all their tokens, no two of them neighbours unless there are hardly any blocks."""
    order = list(range(1, num_blocks, 2))[::-1] + list(range(0, num_blocks, 2))
    made = []
    for prompt in prompts:
        count = -(-len(prompt) // BLOCK_SIZE)
        if count > len(order):
            raise ValueError(f"the program has too few blocks ({num_blocks}) for these sequences")
        made.append(TokenSequence(list(prompt), order[:count]))
        order = order[count:]
    return made


def make_batch(
    work: Sequence[tuple[TokenSequence, int]], logit_rows: Sequence[int] | None = None, *, num_groups: int = 1
) -> Batch:
    """A batch of the next `count` tokens of each sequence; logits for all rows unless `logit_rows` says otherwise.

    A sequence has the same blocks in all KV groups.
    """
    tokens, positions, slots = [], [], []
    starts, lengths = [0], []
    tables = np.zeros((len(work), max(len(sequence.blocks) for sequence, _ in work)), np.int32)
    for b, (sequence, count) in enumerate(work):
        tables[b, : len(sequence.blocks)] = sequence.blocks
        for p in range(sequence.num_computed, sequence.num_computed + count):
            tokens.append(sequence.token_ids[p])
            positions.append(p)
            slots.append(sequence.blocks[p // BLOCK_SIZE] * BLOCK_SIZE + p % BLOCK_SIZE)
        starts.append(len(tokens))
        lengths.append(sequence.num_computed + count)
    rows = range(len(tokens)) if logit_rows is None else logit_rows
    return Batch(
        token_ids=np.array(tokens, np.int32),
        positions=np.array(positions, np.int32),
        slot_mapping=np.array([slots] * num_groups, np.int64),
        block_tables=np.stack([tables] * num_groups),
        query_start=np.array(starts, np.int32),
        seq_lens=np.array(lengths, np.int32),
        logit_rows=np.array(rows, np.int32),
    )


def hidden_batch(
    work: Sequence[tuple[TokenSequence, int]], hidden_rows: Sequence[int], *, num_groups: int = 1
) -> Batch:
    """A batch that wants the logits of its last row, and hidden states."""
    batch = make_batch(work, num_groups=num_groups)
    return replace(batch, logit_rows=batch.logit_rows[-1:], hidden_rows=np.array(hidden_rows, np.int32))


def full_hidden(program: Program, token_ids: Sequence[int]) -> Logits:
    """Hidden states [T, E] of a graph that `hidden` has prepared, all tokens in one step."""
    groups = program.info.kv_groups
    [sequence] = new_sequences(groups[0].num_blocks, [token_ids])
    batch = hidden_batch([(sequence, len(token_ids))], range(len(token_ids)), num_groups=len(groups))
    return program.run(batch).taps[HIDDEN]


def batched(program: Program, prompts: Sequence[Sequence[int]], chunk: int) -> list[Logits]:
    """Logits [T, V] of each prompt; every step takes up to `chunk` tokens of each prompt that is not finished."""
    sequences = new_sequences(program.info.kv_groups[0].num_blocks, prompts)
    while work := [
        (s, min(chunk, len(s.token_ids) - s.num_computed)) for s in sequences if s.num_computed < len(s.token_ids)
    ]:
        batch = make_batch(work, num_groups=len(program.info.kv_groups))
        logits = program.run(batch).logits
        for b, (sequence, count) in enumerate(work):
            sequence.logits.append(logits[batch.query_start[b] : batch.query_start[b + 1]])
            sequence.num_computed += count
    return [np.concatenate(sequence.logits) for sequence in sequences]


def chunked(program: Program, token_ids: Sequence[int], chunk: int) -> Logits:
    """Logits [T, V], `chunk` tokens a step."""
    return batched(program, [token_ids], chunk)[0]


def full_forward(program: Program, token_ids: Sequence[int]) -> Logits:
    """Logits [T, V], all tokens in one step."""
    return chunked(program, token_ids, len(token_ids))


def decode_one_by_one(program: Program, token_ids: Sequence[int]) -> Logits:
    """Logits [T, V], one token a step."""
    return chunked(program, token_ids, 1)
