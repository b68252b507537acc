"""The options that `run` and `chat` share, with the names and defaults people know from other engines."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pellucid.errors import InvalidParameter
from pellucid.sampling import SamplingParams

if TYPE_CHECKING:
    from pellucid.engine.llm import LLM

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A .gguf file, a folder, a built-in name (smollm2), or a hub id (org/name, org/name:file.gguf).",
        show_default=False,
    ),
]
MaxTokens = Annotated[
    int,
    typer.Option(
        "-n", "--max-tokens", help="Longest answer in tokens; -1: until the model ends it.", rich_help_panel="Sampling"
    ),
]
Temperature = Annotated[
    float,
    typer.Option(
        "--temp", "--temperature", help="0 takes the most likely token every time.", rich_help_panel="Sampling"
    ),
]
TopK = Annotated[
    int, typer.Option("--top-k", help="Keep the k most likely tokens; 0: all.", rich_help_panel="Sampling")
]
TopP = Annotated[
    float,
    typer.Option("--top-p", help="Keep the most likely tokens up to this probability.", rich_help_panel="Sampling"),
]
MinP = Annotated[
    float,
    typer.Option(
        "--min-p", help="Keep tokens at least this fraction as likely as the best one.", rich_help_panel="Sampling"
    ),
]
RepeatPenalty = Annotated[
    float,
    typer.Option(
        "--repeat-penalty", help="Above 1: tokens seen before become less likely.", rich_help_panel="Sampling"
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        "-s", "--seed", help="The same seed gives the same answer; -1: a random one.", rich_help_panel="Sampling"
    ),
]
System = Annotated[str | None, typer.Option("--system", help="System message of the chat.", show_default=False)]
ChatTemplate = Annotated[
    str | None,
    typer.Option(
        "--chat-template", help="Jinja template, or a file with one, in place of the model's.", show_default=False
    ),
]
CtxSize = Annotated[
    int | None,
    typer.Option(
        "-c",
        "--ctx-size",
        help="Most tokens of prompt and answer together.",
        show_default="the model's",
        rich_help_panel="Engine",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option("-t", "--threads", help="Worker threads.", show_default="all usable cores", rich_help_panel="Engine"),
]
Isa = Annotated[
    str | None,
    typer.Option(
        "--isa",
        help="Instruction set of the kernels; see `pellucid doctor`.",
        show_default="the best here",
        rich_help_panel="Engine",
    ),
]
Executor = Annotated[
    str, typer.Option("--executor", help="cpu, or reference: NumPy, slow, the specification.", rich_help_panel="Engine")
]
Colour = Annotated[
    bool | None, typer.Option("--color/--no-color", help="Colour the notes on stderr.", show_default="on a terminal")
]

MAX_TOKENS = -1
TEMPERATURE = 0.8
TOP_K = 40
TOP_P = 0.95
MIN_P = 0.05
REPEAT_PENALTY = 1.0
SEED = -1


@dataclass(frozen=True)
class EngineOptions:
    """What it takes to load a model for one conversation."""

    model: str
    ctx_size: int | None
    threads: int | None
    isa: str | None
    executor: str
    chat_template: str | None

    def load(self) -> LLM:
        """The model in memory, downloaded with a progress bar if need be."""
        from pellucid.cli.terminal import DownloadProgress
        from pellucid.formats.source import resolve

        with DownloadProgress() as progress:
            resolve(self.model, progress=progress)

        from pellucid.engine.llm import LLM

        return LLM(
            self.model,
            max_model_len=self.ctx_size,
            threads=self.threads,
            isa=self.isa,
            executor=self.executor,
            chat_template=_text_or_file(self.chat_template),
            max_num_seqs=1,
        )


def sampling_params(
    max_tokens: int, temperature: float, top_k: int, top_p: float, min_p: float, repeat_penalty: float, seed: int
) -> SamplingParams:
    """The flags as SamplingParams, which validates them."""
    return SamplingParams(
        max_tokens=None if max_tokens == -1 else max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repeat_penalty,
        seed=None if seed == -1 else seed,
    )


def read_text(path: Path, option: str) -> str:
    """The text of a file the user named with `option`; exactly one newline at its end is taken off."""
    try:
        return decode(path.read_bytes(), option)
    except OSError as error:
        raise InvalidParameter(option, f"{str(path)!r} cannot be read: {error.strerror}") from error


def decode(data: bytes, what: str) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidParameter(
            what, f"expected UTF-8 text, found byte 0x{data[error.start]:02x} at offset {error.start}"
        ) from error
    return text.removesuffix("\n").removesuffix("\r")


def _text_or_file(template: str | None) -> str | Path | None:
    if template is None:
        return None
    with suppress(OSError, ValueError):  # Jinja text is no file name
        if Path(template).is_file():
            return Path(template)
    return template
