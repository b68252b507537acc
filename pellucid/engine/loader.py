"""From an EngineConfig to everything an Engine needs: checkpoint, graph, program, tokenizer, and how much KV cache."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pellucid.config import EngineConfig
from pellucid.errors import InvalidParameter, ResourceError
from pellucid.executors import get_executor
from pellucid.executors.base import BLOCK_SIZE, Program, Progress
from pellucid.executors.cgroup import cgroup_folders
from pellucid.executors.kv_cache import kv_windows
from pellucid.formats.checkpoint import open_checkpoint
from pellucid.formats.source import resolve
from pellucid.graph.passes.fuse import fuse
from pellucid.graph.passes.hidden import hidden
from pellucid.models.config import ModelConfig
from pellucid.models.registry import build_model
from pellucid.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pellucid.text.chat_template import ChatTemplate

logger = logging.getLogger(__name__)

DEFAULT_KV_CACHE_MEMORY = 4 << 30


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to serve. `given_template` replaces its own chat template."""

    path: Path
    config: ModelConfig
    program: Program
    tokenizer: Tokenizer
    max_model_len: int
    given_template: ChatTemplate | None = None

    @property
    def has_chat_template(self) -> bool:
        """Whether there is one; it may still turn out to be broken when it is used."""
        return self.given_template is not None or self.tokenizer.has_chat_template

    @property
    def chat_template(self) -> ChatTemplate | None:
        """Its own is compiled when it is first used: plain prompts need none."""
        return self.given_template or self.tokenizer.chat_template


def load_model(config: EngineConfig, progress: Progress | None = None) -> LoadedModel:
    """Find, read and compile the model that `config` names. Raises ModelError, InvalidParameter, ResourceError.

    The tokenizer is made in another thread meanwhile: most of compiling is native work that leaves Python free.
    """
    path = resolve(config.model)
    executor = get_executor(
        config.executor, threads=config.threads, isa=config.isa, kv_cache_dtype=config.kv_cache_dtype
    )
    with open_checkpoint(path) as checkpoint, ThreadPoolExecutor(1, "tokenizer") as beside:
        making = beside.submit(Tokenizer.from_checkpoint, checkpoint)
        model, graph = build_model(checkpoint, max_model_len=config.max_model_len)
        graph = fuse(hidden(graph))
        available = available_memory() - sum(t.nbytes for t in graph.weights().values())
        max_model_len, num_blocks = size_kv_cache(
            config, model.context_length, sum(executor.kv_block_nbytes(graph)), max(0, available)
        )
        if config.max_model_len is None and max_model_len < model.context_length:
            # Built as if this length had been asked for, so that asking for it (a receipt does) repeats the answers.
            model, graph = build_model(checkpoint, max_model_len=max_model_len)
            graph = fuse(hidden(graph))
        matrices = {name for name, tensor in graph.weights().items() if len(tensor.shape) == 2}
        checkpoint.check_finite(but=matrices)  # the executor looks at those, as it reads every byte of them anyway
        blocks = [window_blocks(config, window, num_blocks) for window in kv_windows(graph)]
        program = executor.compile(graph, blocks, progress)
        try:
            tokenizer = making.result()
            template = None if config.chat_template is None else _read_template(config.chat_template, tokenizer)
        except BaseException:
            program.close()
            raise
    return LoadedModel(path, model, program, tokenizer, max_model_len, template)


def size_kv_cache(config: EngineConfig, context_length: int, block_nbytes: int, available: int) -> tuple[int, int]:
    """(max_model_len, number of KV blocks) for a model of `context_length` with `available` bytes of free memory.

    A max_model_len that was asked for stays; the cache may be smaller if `kv_cache_memory` says so. Raises
    ResourceError when it does not fit the memory, or a single block does not.
    """
    wanted = config.max_model_len or context_length
    blocks_per_sequence = -(-wanted // BLOCK_SIZE)
    if isinstance(config.kv_cache_memory, int):
        budget = config.kv_cache_memory
    else:
        budget = min(DEFAULT_KV_CACHE_MEMORY, available // 4)
        if config.max_model_len is not None:  # asked for: worth more than the default's caution
            budget = max(budget, min(blocks_per_sequence * block_nbytes, available * 9 // 10))
    affordable = budget // block_nbytes
    both_given = config.max_model_len is not None and config.kv_cache_memory is not None
    if affordable < (blocks_per_sequence if config.max_model_len is not None and not both_given else 1):
        raise ResourceError(
            f"the KV cache of one sequence of {wanted} tokens takes {_mib(blocks_per_sequence * block_nbytes)}, "
            f"but it may take {_mib(budget)}; lower max_model_len or raise kv_cache_memory"
        )
    if affordable < blocks_per_sequence and not both_given:
        wanted = affordable * BLOCK_SIZE
        logger.warning(
            "max_model_len is %d, not the model's %d: the KV cache may take %s", wanted, context_length, _mib(budget)
        )
    return wanted, min(affordable, blocks_per_sequence * config.max_num_seqs)


def window_blocks(config: EngineConfig, window: int, num_blocks: int) -> int:
    """Blocks of a KV group with this window (0: none) where groups without one have `num_blocks`.

    Enough for the windows of `max_num_seqs` sequences, each with a block begun at both ends, and for a step's tokens.
    """
    if not window:
        return num_blocks
    windows = config.max_num_seqs * (-(-window // BLOCK_SIZE) + 2)
    return min(num_blocks, windows + -(-config.max_num_batched_tokens // BLOCK_SIZE))


def available_memory(root: Path = Path("/")) -> int:
    """Bytes this process could still take: the machine's, or what its control groups leave if that is less.

    `root` is the file system's, where Linux's /proc and /sys are looked for.
    """
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = root / "proc/meminfo"
    if meminfo.is_file():
        free = _fields(meminfo)["MemAvailable:"] * 1024
    return min([free, *(left for group in cgroup_folders(root=root) if (left := _left_in(group)) is not None)])


def _left_in(group: Path) -> int | None:
    """Bytes that a control group may still take, or None without a limit."""
    try:
        limit, used = (group / "memory.max").read_text().strip(), int((group / "memory.current").read_text())
        reclaimable = _fields(group / "memory.stat").get("inactive_file", 0)  # file pages the kernel drops first
    except OSError:
        return None
    return None if limit == "max" else max(0, int(limit) - max(0, used - reclaimable))


def _fields(path: Path) -> dict[str, int]:
    """The first number after each name of a file with one name a line."""
    return {words[0]: int(words[1]) for line in path.read_text().splitlines() if len(words := line.split()) > 1}


def _read_template(given: str | Path, tokenizer: Tokenizer) -> ChatTemplate:
    """A chat template from Jinja text, or from the path of a file with it."""
    from pellucid.text.chat_template import ChatTemplate

    text = given
    if isinstance(given, Path) or "{" not in given:
        try:
            text = Path(given).read_text("utf-8")
        except (OSError, ValueError) as error:
            message = f"expected Jinja text, or a file with it; {given!r} has no braces and cannot be read"
            raise InvalidParameter("chat_template", message) from error
    return ChatTemplate(str(text), tokenizer.template_variables)


def _mib(nbytes: int) -> str:
    return f"{nbytes / 2**20:,.1f} MiB"
