"""What the user sets: the engine's configuration, and the few environment variables that are read (only here)."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

from pellucid.errors import InvalidParameter
from pellucid.fields import boolean, integer, refuse_unknown, show

MAX_THREADS = 1024

PLANNED = frozenset({
    "tokenizer", "dtype", "quantization", "tensor_parallel_size", "pipeline_parallel_size",
    "data_parallel_size", "enable_lora", "max_loras", "adapters", "speculative_config",
    "draft_model", "gpu_memory_utilization", "swap_space", "cpu_offload_gb", "enforce_eager",
    "trust_remote_code", "revision", "download_dir", "load_format", "rope_scaling", "hf_overrides",
})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How to load and run a model: the keyword arguments of `LLM`. Validated once; unknown names are refused.

    model: path of a .gguf file, a .safetensors file or a folder; a hub id (`org/name`, `org/name:file.gguf`); or a
        built-in name (`smollm2`).
    max_model_len: most tokens of prompt and answer together. None: the model's own context length, or what the KV cache
        can hold if that is less. A length that was asked for and does not fit the memory is an error.
    threads: worker threads; None: the cores this process may use.
    isa: instruction set to use ("avx2", "portable", …); None: the best of this machine.
    executor: "cpu", or "reference" (NumPy, slow, the specification).
    kv_cache_memory: bytes for the KV cache, as a number or like "2GiB". None: what `max_num_seqs` sequences of
        `max_model_len` tokens could use, but at most a quarter of the memory that is free and 4 GiB.
    kv_cache_dtype: type of cached keys and values: "float32", "float16", "bfloat16", or "q8_0", which takes half of
        float16's memory and is less precise (docs/quality.md); "auto" is the executor's choice.
    activations: what the inputs of quantised weights are rounded to: "int16" (which "auto" is), or "int8": faster, less
        precise; or "bfloat16", inputs and weights alike: for machines with AMX, less precise.
    max_num_seqs: most sequences in one step.
    max_num_batched_tokens: most tokens in one step.
    prefill_chunk: most prompt tokens of one sequence in one step; None: no limit but the above. It changes no result.
    enable_prefix_caching: keep computed blocks and use them again for prompts that begin alike. It changes no result.
    seed: makes requests without a seed of their own repeatable, in the order they are added; None: random.
    chat_template: Jinja text, or the path of a file with it, in place of the model's own chat template.
    """

    model: str
    max_model_len: int | None = None
    threads: int | None = None
    isa: str | None = None
    executor: str = "cpu"
    kv_cache_memory: int | str | None = None
    kv_cache_dtype: str = "auto"
    activations: str = "auto"
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 512
    prefill_chunk: int | None = None
    enable_prefix_caching: bool = True
    seed: int | None = None
    chat_template: str | Path | None = None

    def __new__(cls, **given: object) -> Self:
        refuse_unknown(given, (f.name for f in fields(cls)), PLANNED, "engine setting")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for name in ("model", "executor", "kv_cache_dtype", "activations"):
            if not isinstance(getattr(self, name), str):
                raise InvalidParameter(name, f"expected a string, got {show(getattr(self, name))}")
        if self.isa is not None and not isinstance(self.isa, str):
            raise InvalidParameter("isa", f"expected the name of an instruction set or None, got {show(self.isa)}")
        if self.chat_template is not None and not isinstance(self.chat_template, str | Path):
            raise InvalidParameter("chat_template", f"expected Jinja text or a path, got {show(self.chat_template)}")
        for name, high in (("max_model_len", 2**30), ("threads", MAX_THREADS), ("prefill_chunk", 2**20)):
            if getattr(self, name) is not None:
                self._set(name, integer(name, getattr(self, name), 1, high))
        if self.seed is not None:
            self._set("seed", integer("seed", self.seed, 0, 2**64 - 1))
        self._set("max_num_seqs", integer("max_num_seqs", self.max_num_seqs, 1, 4096))
        self._set("max_num_batched_tokens", integer("max_num_batched_tokens", self.max_num_batched_tokens, 1, 2**20))
        boolean("enable_prefix_caching", self.enable_prefix_caching)
        if self.kv_cache_memory is not None:
            self._set("kv_cache_memory", parse_memory("kv_cache_memory", self.kv_cache_memory))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)


def parse_memory(name: str, value: object) -> int:
    """Bytes from a number or from text such as "512MiB", "2 GB" or "1.5GiB" (K, M, G, T; with an i: powers of 1024)."""
    if not isinstance(value, str):
        return integer(name, value, 1, 2**50)
    match = re.fullmatch(r"\s*([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*([KMGT]?)(i?)B?\s*", value, re.IGNORECASE)
    if match is None:
        raise InvalidParameter(name, f'expected bytes like 1073741824, "512MiB" or "2GB", got {show(value)}')
    number, prefix, binary = match.groups()
    scale = (1024 if binary else 1000) ** " KMGT".index(prefix.upper() or " ")
    return integer(name, int(float(number) * scale), 1, 2**50)


def cache_dir() -> Path:
    """Folder for downloaded models and records: `$XDG_CACHE_HOME/pellucid`, else the platform's. Not created here."""
    if root := os.environ.get("XDG_CACHE_HOME"):
        return Path(root) / "pellucid"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "pellucid"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "pellucid" / "cache"
    return Path.home() / ".cache" / "pellucid"


def colour_wanted() -> bool:
    """False when the user has set NO_COLOR (https://no-color.org) or has a terminal without colours."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def api_key() -> str | None:
    """The key that requests to a server must bring, from `$PELLUCID_API_KEY`."""
    return os.environ.get("PELLUCID_API_KEY") or None


def traces_wanted() -> bool:
    """Whether OpenTelemetry's variables ask for traces: by naming a receiver, or `OTEL_TRACES_EXPORTER=otlp`.

    Raises InvalidParameter for what they ask for and is not there.
    """
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "")
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or exporter == "none":
        return False
    names = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    if not exporter and not any(os.environ.get(name) for name in names):
        return False
    if exporter not in ("", "otlp"):
        raise InvalidParameter("OTEL_TRACES_EXPORTER", f"expected otlp or none, got {show(exporter)}")
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if (protocol := os.environ.get(name, "http/protobuf")) != "http/protobuf":
            raise InvalidParameter(name, f"only http/protobuf is supported, got {show(protocol)}")
    return True


def child_environment(**changes: str) -> dict[str, str]:
    """This process's environment with `changes`, for a child process."""
    return {**os.environ, **changes}
