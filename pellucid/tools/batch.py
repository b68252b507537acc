"""`pellucid batch`: a file of requests in OpenAI's batch format, answered to a file, whatever happens in between.

The output has one line for each line of the input, in its order, and is the same to the byte however often the run was
interrupted: a request without a seed gets one derived from its custom_id, `created` is the time of the input file, and
nothing that depends on company or time is written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from pellucid import __version__
from pellucid.api.openai_responses import error_body
from pellucid.engine.llm import LLM
from pellucid.engine.offline import Answered, Job, Refusal, answer_jobs
from pellucid.engine.progress import ProgressBar
from pellucid.engine.random import derive_seed
from pellucid.errors import InvalidParameter, PellucidError
from pellucid.fields import show
from pellucid.tools.batch_files import BatchInput, Journal
from pellucid.tools.batch_work import Work, work_of

_FIELDS = {"custom_id", "method", "url", "body"}


@dataclass(frozen=True)
class BatchSettings:
    """`served` are the names of the model that a body may use, the first one is the answers'. `seed`: see below."""

    served: tuple[str, ...]
    seed: int = 0
    receipts: bool = False


@dataclass(frozen=True)
class BatchReport:
    """Lines of the file, those of them answered before this run, and those whose answer is an error."""

    num_lines: int
    num_before: int
    num_errors: int


_Key = tuple[int, int]
"""Line, and prompt within its request."""


@dataclass
class _OpenLine:
    """A line whose prompts are being answered."""

    custom_id: str
    work: Work
    num_prompts: int
    results: dict[int, Any] = field(default_factory=dict)  # a PellucidError for one that failed


class BatchRun:
    """One run over one input. `run` may be called once."""

    def __init__(self, llm: LLM, lines: BatchInput, output: Path, settings: BatchSettings) -> None:
        """Raises InvalidParameter when `output` is there already, or half done by a run with other settings."""
        self._llm, self._lines, self._output, self._settings = llm, lines, output, settings
        self._journal = Journal(output, lines, _header(llm, lines, settings))
        self._open: dict[int, _OpenLine] = {}

    def run(self, *, progress: bool | None = None) -> BatchReport:
        """Answer every line that has no answer yet, then write the output."""
        before, total = self._journal.num_done, len(self._lines)
        try:
            if before == 0 and self._output.exists():
                return self._existing()
            with ProgressBar(total, show=progress, done=before) as bar:
                self._bar = bar
                most = 2 * self._llm.config.max_num_seqs
                for done in answer_jobs(self._llm._engine, self._llm._lock, self._jobs(), max_queued=most):
                    self._take(done)
            self._journal.finish()
        finally:
            self._journal.close()
        return BatchReport(total, before, self._journal.num_errors)

    def _existing(self) -> BatchReport:
        complete = self._journal.is_output_complete()
        self._journal.path.unlink()
        if not complete:
            raise InvalidParameter(
                "output", f"{str(self._output)!r} exists and is not the answer to this; remove it or name another file"
            )
        return BatchReport(len(self._lines), len(self._lines), self._journal.num_errors)

    def _jobs(self) -> Iterator[Job[_Key]]:
        """A job for each prompt of each missing line. Lines that cannot be served are answered with the error here."""
        for i, line in self._lines.lines(self._journal.missing()):
            try:
                work = self._work(line)
                jobs = work.jobs(partial(self._seed, line["custom_id"]))
            except PellucidError as error:
                self._write_error(i, line["custom_id"], error)
                continue
            self._open[i] = _OpenLine(line["custom_id"], work, len(jobs))
            yield from (replace(job, key=(i, job.key)) for job in jobs)

    def _seed(self, custom_id: str, prompt: int) -> int:
        return derive_seed(self._settings.seed, _number(custom_id, prompt))

    def _work(self, line: dict[str, Any]) -> Work:
        for name in line.keys() - _FIELDS:
            raise InvalidParameter(name[:80], f"is not a field of a batch line; expected {', '.join(sorted(_FIELDS))}")
        if line.get("method") != "POST":
            raise InvalidParameter("method", f'expected "POST", got {show(line.get("method"))}')
        if not isinstance(line.get("url"), str):
            raise InvalidParameter("url", f"expected the path of an endpoint, got {show(line.get('url'))}")
        if not isinstance(line.get("body"), dict):
            raise InvalidParameter("body", f"expected an object, got {show(line.get('body'))}")
        return work_of(self._llm, line["url"], line["body"], self._settings.served)

    def _take(self, done: Answered[_Key] | Refusal[_Key]) -> None:
        """Keep the result of one prompt until its line has them all."""
        i, k = done.key
        line = self._open[i]
        try:
            line.results[k] = done.error if isinstance(done, Refusal) else line.work.result(done)
        except PellucidError as error:
            line.results[k] = error
        if len(line.results) < line.num_prompts:
            return
        del self._open[i]
        results = [line.results[k] for k in range(line.num_prompts)]
        for result in results:
            if isinstance(result, PellucidError):
                self._write_error(i, line.custom_id, result)
                return
        body = line.work.body(
            results,
            key=self._journal.key(i),
            created=self._journal.header["created"],
            with_receipts=self._settings.receipts,
        )
        self._write(i, line.custom_id, 200, body)
        self._bar.advance(body["usage"].get("completion_tokens", 0))

    def _write_error(self, i: int, custom_id: str, error: PellucidError) -> None:
        self._write(i, custom_id, error.http_status, error_body(error))
        self._bar.advance()

    def _write(self, i: int, custom_id: str, status: int, body: dict[str, Any]) -> None:
        response = {"status_code": status, "request_id": f"req_{self._journal.key(i)}", "body": body}
        self._journal.append(
            i, {"id": self._journal.answer_id(i), "custom_id": custom_id, "response": response, "error": None}
        )


def _header(llm: LLM, lines: BatchInput, settings: BatchSettings) -> dict[str, Any]:
    """Everything that decides about the output."""
    model, info = llm._model, llm._model.program.info
    template = model.chat_template
    return {
        "pellucid_batch": 1,
        "version": __version__,
        "input": lines.sha256,
        "model": settings.served[0],
        "architecture": model.config.architecture,
        "quantization": model.config.quantization,
        "model_nbytes": _nbytes(model.path),
        "max_model_len": model.max_model_len,
        "executor": info.executor,
        "isa": info.isa,
        "kv_cache_dtype": info.kv_cache_dtype,
        "activations": info.activations,
        "chat_template": None if template is None else hashlib.sha256(template.source.encode()).hexdigest(),
        "served": list(settings.served),
        "seed": settings.seed,
        "receipts": settings.receipts,
    }


def _nbytes(path: Path) -> int:
    """Of the model's file, or of those in its folder."""
    files = [path] if path.is_file() else path.glob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def _number(custom_id: str, prompt: int) -> int:
    """What a seed is derived from for one prompt of a line."""
    return int.from_bytes(hashlib.sha256(f"{prompt}/{custom_id}".encode("utf-8", "replace")).digest()[:8], "little")
