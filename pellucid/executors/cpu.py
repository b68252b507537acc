"""The CPU executor: lowers a graph to the native program, which runs a whole step in one call without the GIL.

Lowering gives each value a place in the arena (reused once nothing reads it any more), packs each weight once, and
turns each node into one operator record. No arithmetic may enter here: a new operator goes to native/ops.cpp and gets
a method below; a faster kernel goes to native/isa/.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid.config import MAX_THREADS
from pellucid.errors import ExecutorError, ResourceError, UnsupportedModel
from pellucid.executors.arena import Arena
from pellucid.executors.base import (
    Batch,
    BlockCopy,
    ProgramInfo,
    Progress,
    StepResult,
    id_limits,
)
from pellucid.executors.cores import available_cores
from pellucid.executors.kv_cache import check_copies, kv_groups, kv_layers, kv_windows
from pellucid.formats.finite import not_finite
from pellucid.formats.mapped import is_mapped
from pellucid.formats.qtensor import QTensor
from pellucid.formats.quant import QuantType
from pellucid.graph.ir import Graph, Node
from pellucid.native import _native

Floats = npt.NDArray[np.float32]

KV_KINDS = ("float32", "float16", "bfloat16", "q8_0")  # by their number in native/isa/kernels.h
KV_CACHE_DTYPES = ("auto", *KV_KINDS)
ROUNDINGS = ("int16", "int8", "bfloat16")  # likewise
ACTIVATIONS = ("auto", *ROUNDINGS)

_PART_NBYTES = 16 << 20  # of weights that are in memory twice while they are packed, about
_CALL_NBYTES = 512 << 20  # of weights packed by one native call, during which Ctrl-C waits
_PANEL_ROWS = 16  # outputs that lie together once packed (native/types.h)

_NORM_KINDS = {"rms": 1, "layer": 2}
_ACTS = {"silu": 0, "gelu_tanh": 1, "gelu": 2}


def available_isas() -> list[str]:
    """Instruction sets with kernels that this machine can run, slowest first."""
    return list(_native.available_isas())


class CpuExecutor:
    """Native kernels on this machine's cores.

    `threads`: None for all cores the process may use. `isa`: one of `available_isas()`, None for the fastest.
    `kv_cache_dtype`: "float32", "float16", "bfloat16", "q8_0" (eight bits and a scale for each 32 numbers: half of
    float16's memory, less precise; docs/quality.md), or "auto": float32 where all the weights are, else float16.
    `activations`: what the inputs of quantised linears are rounded to, in blocks of 32 with a scale each: "int16"
    ("auto" is the same), or "int8", which is faster and less precise (docs/decisions/0008-int8-activations.md); or
    "bfloat16" for inputs and weights of all linears, which AMX multiplies (docs/decisions/0009-bfloat16-profile.md).
    None of them but `isa`, `kv_cache_dtype` and `activations` changes a bit of any result.
    """

    name = "cpu"

    def __init__(
        self,
        threads: int | None = None,
        isa: str | None = None,
        kv_cache_dtype: str = "auto",
        activations: str = "auto",
    ) -> None:
        if threads is not None and not 1 <= threads <= MAX_THREADS:
            raise ExecutorError(f"threads is {threads}, expected 1 to {MAX_THREADS}")
        isas = available_isas()
        if isa is not None and isa not in isas:
            raise ExecutorError(f"isa is {isa!r}, but this machine and build offer {', '.join(isas)}")
        if kv_cache_dtype not in KV_CACHE_DTYPES:
            raise ExecutorError(f"kv_cache_dtype is {kv_cache_dtype!r}, expected one of {', '.join(KV_CACHE_DTYPES)}")
        if activations not in ACTIVATIONS:
            raise ExecutorError(f"activations is {activations!r}, expected one of {', '.join(ACTIVATIONS)}")
        self.threads = threads or available_cores()
        self.isa = isa or isas[-1]
        self._kv_cache_dtype = kv_cache_dtype
        self.activations = "int16" if activations == "auto" else activations

    def kv_cache_dtype(self, graph: Graph) -> str:
        if self._kv_cache_dtype != "auto":
            return self._kv_cache_dtype
        return "float32" if all(t.type is QuantType.F32 for t in graph.weights().values()) else "float16"

    def kv_block_nbytes(self, graph: Graph) -> list[int]:
        kind = KV_KINDS.index(self.kv_cache_dtype(graph))
        nbytes = dict.fromkeys(kv_windows(graph), 0)
        for k in kv_layers(graph):
            each = sum(_native.kv_head_nbytes(kind, columns) for columns in (k.head_size, _padded(k.head_size)))
            nbytes[k.window] += k.num_kv_heads * each
        return list(nbytes.values())

    def compile(
        self,
        graph: Graph,
        num_blocks: int | Sequence[int],
        progress: Progress | None = None,
        *,
        require_finite: bool = True,
    ) -> CpuProgram:
        info = ProgramInfo(
            executor=self.name,
            isa=self.isa,
            threads=self.threads,
            kv_cache_dtype=self.kv_cache_dtype(graph),
            activations=self.activations,
            kv_groups=kv_groups(graph, num_blocks),
            weight_nbytes=0,
        )
        return CpuProgram(graph, info, progress, require_finite=require_finite)


class CpuProgram:
    """A graph as native operator records with their weights and KV cache."""

    def __init__(
        self,
        graph: Graph,
        wanted: ProgramInfo,
        progress: Progress | None = None,
        *,
        require_finite: bool = True,
    ) -> None:
        self._vocab_size, self._max_positions = id_limits(graph)
        try:
            native = _native.Program(
                isa=wanted.isa,
                threads=wanted.threads,
                cores=available_cores(),
                num_blocks=[group.num_blocks for group in wanted.kv_groups],
                kv_kind=KV_KINDS.index(wanted.kv_cache_dtype),
                rounding=ROUNDINGS.index(wanted.activations),
            )
            lowering = _Lowering(native, graph)
            for node in graph:
                lowering.lower(node)
            native.set_arena(*lowering.arena.columns)
            _pack(native, lowering.matrices, progress, require_finite)
        except MemoryError as error:
            raise ResourceError(f"not enough memory for the weights and the KV cache ({wanted.kv_groups})") from error
        except RuntimeError as error:  # std::system_error of the thread pool
            raise ResourceError(f"{wanted.threads} threads could not be started ({error}); ask for fewer") from error
        self._native: _native.Program | None = native
        self._process = os.getpid()
        self._outputs = lowering.arena.outputs
        self._names = graph.outputs
        self._phases = lowering.phases
        self.info = replace(wanted, weight_nbytes=native.weight_nbytes)

    def copy_blocks(self, copies: Sequence[BlockCopy]) -> None:
        if copies:
            native = self._require_open()
            check_copies(copies, self.info.kv_groups)
            native.copy_blocks(np.array(copies, np.int32))

    def run(self, batch: Batch) -> StepResult:
        native = self._require_open()
        batch.check(self.info.kv_groups, self._vocab_size, self._max_positions)
        rows = {"T": len(batch.token_ids), "R": len(batch.logit_rows), "P": len(batch.hidden_rows)}
        try:
            arrays = [np.empty((rows[value.rows], value.width), np.float32) for value in self._outputs]
            native.run(
                token_ids=np.ascontiguousarray(batch.token_ids),
                positions=np.ascontiguousarray(batch.positions),
                slot_mapping=np.ascontiguousarray(batch.slot_mapping),
                block_tables=np.maximum(batch.block_tables, 0),  # no kernel can leave the cache by reading too far
                query_start=np.ascontiguousarray(batch.query_start),
                seq_lens=np.ascontiguousarray(batch.seq_lens),
                logit_rows=np.ascontiguousarray(batch.logit_rows),
                hidden_rows=np.ascontiguousarray(batch.hidden_rows),
                outputs=arrays,
            )
        except MemoryError as error:
            raise ResourceError(f"not enough memory for a step of {rows['T']} tokens") from error
        found = {value.name: array for value, array in zip(self._outputs, arrays, strict=True)}
        taps = {name: found[value.name] for name, value in self._names.items()}
        return StepResult(taps.pop("logits"), taps)

    def start_profile(self) -> None:
        """Time every operator of the steps to come; until then no clock is read."""
        self._require_open().start_profile()

    def profile(self) -> list[tuple[Node, float]]:
        """Seconds that steps took since `start_profile`, for each phase of each node in turn; empty without it.

        An operator that prepares its input first has two phases or more. What the calling thread waited for others
        is part of a phase's time, so the sum is what steps took, but for entering and leaving them.
        """
        return list(zip(self._phases, self._require_open().profile(), strict=False))

    def close(self) -> None:
        self._native = None

    def _require_open(self) -> _native.Program:
        if self._native is None:
            raise ExecutorError("this program is closed; compile the graph again")
        if os.getpid() != self._process:
            raise ExecutorError(
                "this program's threads stayed in the process that was forked; load the model after fork"
            )
        return self._native


def _pack(native: _native.Program, matrices: list[QTensor], progress: Progress | None, require_finite: bool) -> None:
    """Brings the matrices, in order, into the kernels' order, in few native calls: after each one, this thread waits
    for the one that makes the tokenizer to let Python go.

    A mapped file's pages are given back behind each part, so that no more than one is in memory twice.
    """
    total, ready = sum(tensor.nbytes for tensor in matrices), 0
    for parts in _calls(matrices):
        bad_blocks = native.pack([(number, first, rows.data, is_mapped(rows.data)) for number, first, rows in parts])
        for (number, _, rows), bad in zip(parts, bad_blocks, strict=True):
            if bad >= 0 and require_finite:
                raise not_finite(matrices[number], bad)
            ready += rows.nbytes
        if progress is not None:
            progress(ready, total)


def _calls(matrices: list[QTensor]) -> Iterator[list[tuple[int, int, QTensor]]]:
    """All rows as parts (matrix, first row, rows) of whole panels, and as many for each call as suit it."""
    parts: list[tuple[int, int, QTensor]] = []
    nbytes = 0
    for number, matrix in enumerate(matrices):
        outputs = matrix.shape[0]
        step = max(1, _PART_NBYTES // (matrix.row_nbytes * _PANEL_ROWS)) * _PANEL_ROWS
        for first in range(0, outputs, step):
            rows = matrix.rows(first, min(first + step, outputs))
            parts.append((number, first, rows))
            nbytes += rows.nbytes
            if nbytes >= _CALL_NBYTES:
                yield parts
                parts, nbytes = [], 0
    if parts:
        yield parts


class _Lowering:
    """Turns nodes, in order, into operator records of `native`."""

    def __init__(self, native: _native.Program, graph: Graph) -> None:
        self.native = native
        self.arena = Arena(graph)
        self.matrices: list[QTensor] = []  # by their number in `native`
        self.phases: list[Node] = []  # whose phase each of `native` is, in order
        self._numbers: dict[str, int] = {}
        self.windows = kv_windows(graph)
        self._rope_tables: dict[tuple[str, float], int] = {}

    def lower(self, node: Node) -> None:
        method = getattr(self, f"_{node.op}", None)
        if method is None:
            raise UnsupportedModel(f"the cpu executor has no operator {node.op!r} (node {node.name})")
        out = self.arena.place(node)
        method(node, [self.arena.view(value) for value in node.inputs], node.attrs, out)
        self.phases += [node] * (self.native.num_phases - len(self.phases))
        self.arena.release(node)

    def _matrix(self, tensor: QTensor) -> int:
        """The number of a matrix, given at its first use: a head tied to the embedding is packed once."""
        if tensor.name not in self._numbers:
            self._numbers[tensor.name] = self.native.add_matrix(tensor.type.ggml_id, *tensor.shape)
            self.matrices.append(tensor)
        return self._numbers[tensor.name]

    def _embed(self, node: Node, inputs: list[Any], attrs: Mapping[str, Any], out: Any) -> None:
        self.native.embed(self._matrix(node.weights["weight"]), attrs["source"] == "positions", attrs["scale"], out)

    def _linear(self, node: Node, inputs: list[Any], attrs: Mapping[str, Any], out: Any) -> None:
        roles = [role for role in node.weights if role.startswith("weight")]
        kind = _NORM_KINDS.get(str(attrs.get("norm", "")), 0)
        self.native.linear(
            x=inputs[0],
            matrices=[self._matrix(node.weights[role]) for role in roles],
            biases=[_optional(node.weights.get(role.replace("weight", "bias"))) for role in roles],
            norm=kind,
            norm_weight=_vector(node.weights["norm"], attrs["norm_offset"]) if kind else None,
            norm_bias=_optional(node.weights.get("norm_bias")),
            eps=attrs.get("eps", 0.0),
            residual=inputs[1] if len(inputs) > 1 else None,
            out=out,
        )

    def _rms_norm(self, node: Node, inputs: list[Any], attrs: Mapping[str, Any], out: Any) -> None:
        weight = _vector(node.weights["weight"], attrs["offset"])
        self.native.norm(x=inputs[0], kind=_NORM_KINDS["rms"], weight=weight, bias=None, eps=attrs["eps"], out=out)

    def _layer_norm(self, node: Node, inputs: list[Any], attrs: Mapping[str, Any], out: Any) -> None:
        weight, bias = _vector(node.weights["weight"]), _optional(node.weights.get("bias"))
        self.native.norm(x=inputs[0], kind=_NORM_KINDS["layer"], weight=weight, bias=bias, eps=attrs["eps"], out=out)

    def _slice(self, node: Node, inputs: list[Any], attrs: Mapping[str, Any], out: Any) -> None:
        if out is not None:  # a slice is a view of its parent; only one that is handed out needs a copy
            self.native.copy(self.arena.part(inputs[0], attrs["start"], node.output.width), out)

    def _rope(self, node: Node, inputs: list[Any], attrs: Mapping[str, Any], out: Any) -> None:
        inv_freq = node.weights["inv_freq"]
        key = (inv_freq.name, float(attrs["scale"]))
        if key not in self._rope_tables:
            self._rope_tables[key] = self.native.rope_table(_vector(inv_freq), key[1])
        interleaved = attrs["style"] == "interleaved"
        self.native.rope(inputs[0], self._rope_tables[key], attrs["head_size"], interleaved, out)

    def _attention(self, node: Node, inputs: list[Any], attrs: Mapping[str, Any], out: Any) -> None:
        q, k, v = inputs
        names = ("num_heads", "num_kv_heads", "head_size", "window", "scale", "softcap")
        group = self.windows.index(attrs["window"])
        cache = self.native.add_cache(group, attrs["num_kv_heads"], attrs["head_size"])
        self.native.attention(q=q, k=k, v=v, cache=cache, out=out, **{name: attrs[name] for name in names})

    def _glu(self, node: Node, inputs: list[Any], attrs: Mapping[str, Any], out: Any) -> None:
        self.native.glu(inputs[0], inputs[1], _ACTS[attrs["act"]], out)

    def _act(self, node: Node, inputs: list[Any], attrs: Mapping[str, Any], out: Any) -> None:
        self.native.act(inputs[0], _ACTS[attrs["act"]], out)

    def _add(self, node: Node, inputs: list[Any], attrs: Mapping[str, Any], out: Any) -> None:
        self.native.add(inputs[0], inputs[1], out)

    def _softcap(self, node: Node, inputs: list[Any], attrs: Mapping[str, Any], out: Any) -> None:
        self.native.softcap(inputs[0], attrs["cap"], out)

    def _select(self, node: Node, inputs: list[Any], attrs: Mapping[str, Any], out: Any) -> None:
        self.native.select(inputs[0], out)


def _padded(head_size: int) -> int:
    """Columns of a cached value: whole vectors of 16 (native/isa/kernels.h)."""
    return -(-head_size // 16) * 16


def _vector(tensor: QTensor, offset: Any = 0.0) -> Floats:
    """A norm's or a bias's numbers in float32, plus `offset`."""
    return np.ascontiguousarray(tensor.dequantize().reshape(-1) + np.float32(offset))


def _optional(tensor: QTensor | None) -> Floats | None:
    return None if tensor is None else _vector(tensor)
