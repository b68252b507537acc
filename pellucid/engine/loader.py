"""From an EngineConfig to everything an Engine needs: checkpoint, graph, program, tokenizer, and how much KV cache."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pellucid.config import EngineConfig
from pellucid.engine.kv_budget import size_kv_cache
from pellucid.errors import InvalidParameter
from pellucid.executors import get_executor
from pellucid.executors.base import Program, Progress
from pellucid.executors.kv_cache import kv_windows
from pellucid.executors.memory import available_memory
from pellucid.formats.checkpoint import open_checkpoint
from pellucid.formats.source import resolve
from pellucid.graph.passes.fuse import fuse
from pellucid.graph.passes.hidden import hidden
from pellucid.models.config import ModelConfig
from pellucid.models.registry import build_model
from pellucid.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pellucid.text.chat_template import ChatTemplate


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
        config.executor,
        threads=config.threads,
        isa=config.isa,
        kv_cache_dtype=config.kv_cache_dtype,
        activations=config.activations,
    )
    with open_checkpoint(path) as checkpoint, ThreadPoolExecutor(1, "tokenizer") as beside:
        making = beside.submit(Tokenizer.from_checkpoint, checkpoint)
        model, graph = build_model(checkpoint, max_model_len=config.max_model_len)
        graph = fuse(hidden(graph))
        available = available_memory() - sum(t.nbytes for t in graph.weights().values())
        groups = list(zip(kv_windows(graph), executor.kv_block_nbytes(graph), strict=True))
        max_model_len, num_blocks = size_kv_cache(config, model.context_length, groups, max(0, available))
        if config.max_model_len is None and max_model_len < model.context_length:
            # Built as if this length had been asked for, so that asking for it (a receipt does) repeats the answers.
            model, graph = build_model(checkpoint, max_model_len=max_model_len)
            graph = fuse(hidden(graph))
        matrices = {name for name, tensor in graph.weights().items() if len(tensor.shape) == 2}
        checkpoint.check_finite(but=matrices)  # the executor looks at those, as it reads every byte of them anyway
        program = executor.compile(graph, num_blocks, progress)
        try:
            tokenizer = making.result()
            template = None if config.chat_template is None else _read_template(config.chat_template, tokenizer)
        except BaseException:
            program.close()
            raise
    return LoadedModel(path, model, program, tokenizer, max_model_len, template)


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
