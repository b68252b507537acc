"""What an executor is: it compiles a Graph into a Program, and a Program runs one step over a Batch.

Nothing about requests, scheduling or sampling may enter this folder; nothing about tensors may leave it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from pellucid.errors import ExecutorError
from pellucid.graph.ir import Graph

BLOCK_SIZE = 16
"""Tokens in one KV block (S). Attention sums over keys in chunks at fixed multiples of it."""


@dataclass(frozen=True)
class KVGroup:
    """Layers that need the same tokens' keys and values, the last `window` (0: all), and so share block tables."""

    window: int
    num_blocks: int


class BlockCopy(NamedTuple):
    """Copy the keys and values of all layers of a group from one block to another."""

    group: int
    source: int
    destination: int


@dataclass(frozen=True)
class Batch:
    """One step's work as flat arrays: T tokens of B sequences, and the rows wanted of the logits and hidden states.

    The tokens of sequence b are rows query_start[b]:query_start[b+1]; they are its newest ones, at positions
    seq_lens[b] - count … seq_lens[b] - 1. In each of the program's G KV groups a token's key and value go to cache slot
    block_id * S + position % S. Table entries that no token of the step needs, because there is nothing yet or it lies
    behind the window, may be -1.
    """

    token_ids: npt.NDArray[np.int32]  # [T]
    positions: npt.NDArray[np.int32]  # [T]
    slot_mapping: npt.NDArray[np.int64]  # [G, T]
    block_tables: npt.NDArray[np.int32]  # [G, B, max blocks of a sequence]
    query_start: npt.NDArray[np.int32]  # [B + 1], starts with 0 and ends with T
    seq_lens: npt.NDArray[np.int32]  # [B], tokens in the cache after this step
    logit_rows: npt.NDArray[np.int32]  # [R], indices into T
    hidden_rows: npt.NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))  # [P], indices into T

    def check(self, groups: Sequence[KVGroup], vocab_size: int, max_positions: int | None = None) -> None:
        """Raise ExecutorError unless every index lies inside what a program owns and all the arrays agree.

        Executors call it before a step, so that a bad batch can neither read nor write another sequence's memory.
        """
        for name, (dtype, ndim) in _BATCH_ARRAYS.items():
            array = getattr(self, name)
            if array.dtype != dtype or array.ndim != ndim:
                found = f"{array.dtype} with {array.ndim} axes"
                raise ExecutorError(f"batch.{name} is {found}, expected {np.dtype(dtype)} with {ndim}")
        num_tokens, num_seqs = len(self.token_ids), len(self.seq_lens)
        shapes = {"positions": (num_tokens,), "query_start": (num_seqs + 1,), "slot_mapping": (len(groups), num_tokens)}
        shapes["block_tables"] = (len(groups), num_seqs, self.block_tables.shape[2])
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ExecutorError(f"batch.{name} has shape {getattr(self, name).shape}, expected {shape}")
        counts = self.query_start[1:] - self.query_start[:-1]
        if num_seqs == 0 or self.query_start[0] != 0 or self.query_start[-1] != num_tokens or counts.min() < 1:
            raise ExecutorError(f"batch.query_start does not rise from 0 to {num_tokens}, by one or more a sequence")
        _check_range("token_ids", self.token_ids, vocab_size)
        _check_range("logit_rows", self.logit_rows, num_tokens)
        _check_range("hidden_rows", self.hidden_rows, num_tokens)
        if max_positions is not None:
            _check_range("positions", self.positions, max_positions)
        _check_range("seq_lens", self.seq_lens, self.block_tables.shape[2] * BLOCK_SIZE + 1)
        first = self.seq_lens - counts
        newest = np.repeat(first - self.query_start[:-1], counts) + np.arange(num_tokens)
        if first.min() < 0 or (self.positions != newest).any():
            raise ExecutorError("batch.positions are not each sequence's newest ones, seq_len - count to seq_len - 1")
        entry = np.arange(self.block_tables.shape[2])
        last = (self.seq_lens - 1) // BLOCK_SIZE
        for group, tables in zip(groups, self.block_tables, strict=True):
            oldest = np.maximum(first - group.window + 1, 0) // BLOCK_SIZE if group.window else np.zeros_like(first)
            needed = (entry >= oldest[:, None]) & (entry <= last[:, None])  # [B, blocks]
            _check_range("block_tables", np.where(needed, tables, np.maximum(tables, 0)), group.num_blocks)
        blocks = self.block_tables[:, np.repeat(np.arange(num_seqs), counts), self.positions // BLOCK_SIZE]
        if (self.slot_mapping != blocks.astype(np.int64) * BLOCK_SIZE + self.positions % BLOCK_SIZE).any():
            raise ExecutorError("batch.slot_mapping does not follow from batch.block_tables and batch.positions")
        slots = np.sort(self.slot_mapping)
        if (slots[:, 1:] == slots[:, :-1]).any():
            raise ExecutorError("batch.slot_mapping sends two tokens to one KV slot")


_BATCH_ARRAYS = {
    "token_ids": (np.int32, 1),
    "positions": (np.int32, 1),
    "slot_mapping": (np.int64, 2),
    "block_tables": (np.int32, 3),
    "query_start": (np.int32, 1),
    "seq_lens": (np.int32, 1),
    "logit_rows": (np.int32, 1),
    "hidden_rows": (np.int32, 1),
}


def _check_range(name: str, array: npt.NDArray[np.int32], limit: int) -> None:
    # As unsigned numbers negative ones are large, so one pass finds both ends.
    if array.size and array.view(np.uint32).max() >= limit:
        bad = array[(array < 0) | (array >= limit)].flat[0]
        raise ExecutorError(f"batch.{name} holds {bad}, expected 0 to {limit - 1}")


def id_limits(graph: Graph) -> tuple[int, int | None]:
    """Bounds of a batch's token ids and positions: both are below these. None where positions have no table.

    A token id must have a row in the embedding and a logit of its own.
    """
    rows: dict[str, list[int]] = {"tokens": [graph.outputs["logits"].width], "positions": []}
    for node in graph:
        if node.op == "embed":
            rows[str(node.attrs["source"])].append(node.weights["weight"].shape[0])
    return min(rows["tokens"]), min(rows["positions"], default=None)


@dataclass(frozen=True)
class StepResult:
    """`logits` is [R, V]; `taps` holds the graph's other outputs. Both are owned by the caller."""

    logits: npt.NDArray[np.float32]
    taps: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True)
class ProgramInfo:
    """What was chosen at compile time, for receipts, `doctor` and benchmarks."""

    executor: str
    isa: str
    threads: int  # 0 where the executor leaves it to its libraries
    kv_cache_dtype: str
    activations: str  # what inputs of linears are rounded to: "int16", "int8", "bfloat16", or the float type kept
    kv_groups: tuple[KVGroup, ...]
    weight_nbytes: int


class Program(Protocol):
    """A graph made ready to run, with its own KV cache (`info.kv_groups`). Not thread-safe: one call at a time."""

    info: ProgramInfo

    def copy_blocks(self, copies: Sequence[BlockCopy]) -> None:
        """Copy whole blocks, one after the other: a later copy reads what an earlier one wrote.

        Raises ExecutorError, with nothing copied, when a group or block does not exist or the program is closed.
        """
        ...

    def run(self, batch: Batch) -> StepResult:
        """Run one step. Writes the keys and values of the batch's tokens into their slots and reads, for each token,
        the slots of the earlier tokens in its window, which earlier steps (or earlier rows of this one) must have
        written. No other block is read.

        Raises ExecutorError when the step cannot be run; the KV slots of the batch's tokens are then undefined.
        """
        ...

    def close(self) -> None:
        """Free weights, KV cache and threads. Calling `run` afterwards raises ExecutorError."""
        ...


Progress = Callable[[int, int], None]
"""Called with the bytes of weights that are ready and those there are. What it raises ends the work."""


class Executor(Protocol):
    name: str

    def kv_block_nbytes(self, graph: Graph) -> list[int]:
        """Bytes that one block of each KV group (`kv_windows`) takes, over all its layers."""
        ...

    def compile(
        self,
        graph: Graph,
        num_blocks: int | Sequence[int],
        progress: Progress | None = None,
        *,
        require_finite: bool = True,
    ) -> Program:
        """Make `graph` ready to run, with `num_blocks` KV blocks for each group. Takes the weights' data; the
        checkpoint may be closed afterwards.

        Raises UnsupportedModel for an operator or type the executor does not have, ResourceError without memory, and
        FormatError for a matrix (a weight of two dimensions) that holds a NaN or an infinity, unless `require_finite`
        is False: tests use such weights to bring NaN into an operator.
        """
        ...
