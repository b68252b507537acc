"""`pellucid verify`: replay requests cold and compare, token for token and bit for bit.

Cold is alone, each of n answers for itself, in an engine that keeps nothing: no company, no cached prefix, no shared
block, no draft, no preemption. What came out of a busy engine must be the same. The requests are those of a file of
results, or a workload of our own that is made to be hard (verify_workload.py): shared prefixes, several answers a
prompt, every sampler, a cache too small for what runs, arrivals and cancels at random moments.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pellucid import __version__
from pellucid.config import EngineConfig
from pellucid.engine.drafter import Drafter
from pellucid.engine.engine import Engine
from pellucid.engine.loader import LoadedModel
from pellucid.engine.outputs import PositionLogprobs
from pellucid.engine.request import Request
from pellucid.errors import FormatError, InvalidParameter, InvalidRequest
from pellucid.fields import show
from pellucid.formats.json_file import parse_json_object
from pellucid.sampling import SamplingParams
from pellucid.structured_outputs import StructuredOutputs
from pellucid.tools.verify_workload import EarlierTokens, make_workload, run_workload, sampler_settings, spellable

RUNNING = 16
STEP_TOKENS = 96
PREFILL_CHUNK = 40
MAX_LINE_NBYTES = 256 << 20

Position = dict[int, tuple[str, int]]
"""Log-probabilities at one position: (bits, rank) by token."""


@dataclass(frozen=True)
class Answer:
    """What is compared: token ids, and log-probabilities of the answer and of the prompt, if recorded.

    An answer that was cut off by a cancel is a beginning (`whole` is False).
    """

    token_ids: list[int]
    logprobs: list[Position] | None
    whole: bool = True
    prompt_logprobs: list[Position] = field(default_factory=list)


@dataclass(frozen=True)
class Recorded:
    """A request and its answers, one for each of n."""

    name: str
    prompt_token_ids: list[int]
    params: SamplingParams
    answers: list[Answer]
    facts: Mapping[str, Any] | None = None  # of the engine it was made with, when that is not this one


@dataclass
class Report:
    """What was replayed, and one line for everything that was not the same or could not be compared."""

    num_requests: int = 0
    num_answers: int = 0
    num_tokens: int = 0
    num_logprobs: int = 0
    num_preemptions: int = 0
    num_cancelled: int = 0
    num_cached_tokens: int = 0
    num_right_drafts: int = 0
    num_wrong_drafts: int = 0
    left_out: list[str] = field(default_factory=list)  # kinds of structured output that the vocabulary cannot spell
    differences: list[str] = field(default_factory=list)


def read_results(path: Path) -> Iterator[Recorded]:
    """The records in what `pellucid batch --receipts` or `pellucid run --json` wrote. Raises InvalidParameter."""
    try:
        with path.open("rb") as file:
            first = file.readline(MAX_LINE_NBYTES)
            if first.strip() == b"{":  # one object over many lines
                yield from _records(first + file.read(MAX_LINE_NBYTES), path.name)
                return
            number = 0
            while first:
                number += 1
                if first.strip():
                    yield from _records(first, f"{path.name}:{number}")
                first = file.readline(MAX_LINE_NBYTES)
    except OSError as error:
        raise InvalidParameter("results", f"{str(path)!r} cannot be read: {error.strerror}") from error


def verify_results(model: LoadedModel, records: Iterable[Recorded]) -> Report:
    """Replay each of `records` cold."""
    report = Report()
    here = _facts(model)
    cold = _engine(model, enable_prefix_caching=False)
    for record in records:
        changed = [name for name, value in here.items() if (record.facts or here).get(name) != value]
        if changed:
            what = "; ".join(f"{n} was {show((record.facts or {}).get(n))}, here {show(here[n])}" for n in changed)
            report.differences.append(f"{record.name} cannot be compared: {what}")
            continue
        _replay(cold, record, report)
    return report


def verify_workload(model: LoadedModel, *, count: int, sample: int | None = None, seed: int = 0) -> Report:
    """Run `count` requests hot, then replay `sample` of them (None: all) cold. The seed decides which requests."""
    rng = random.Random(seed)
    vocab_size = model.config.vocab_size
    cold = _engine(model, enable_prefix_caching=False)
    settings, left_out = spellable(cold, sampler_settings(vocab_size))
    asks = make_workload(count, rng, settings, vocab_size=vocab_size, max_model_len=model.max_model_len)
    limits = {"max_num_seqs": RUNNING, "max_num_batched_tokens": STEP_TOKENS, "prefill_chunk": PREFILL_CHUNK}
    engine = _engine(model, drafter=EarlierTokens(), **limits)
    answers = run_workload(engine, asks, rng)
    requests = [request for own in answers for request in own]
    stats = engine.stats()
    report = Report(
        num_preemptions=stats.preemptions_total,
        num_cancelled=sum(r.finish_reason == "abort" for r in requests),
        num_cached_tokens=stats.prefix_cache_hits_total,
        num_right_drafts=stats.accepted_tokens_total,
        num_wrong_drafts=stats.drafted_tokens_total - stats.accepted_tokens_total,
        left_out=left_out,
        differences=[f"{r.id}, answer {r.index} failed: {r.error}" for r in requests if r.error],
    )
    records = [
        Recorded(f"request {i}", ask.prompt, ask.params, [_answer(r) for r in own])
        for i, (ask, own) in enumerate(zip(asks, answers, strict=True))
    ]
    for record in records if sample is None else rng.sample(records, min(sample, count)):
        _replay(cold, record, report)
    return report


def _replay(cold: Engine, record: Recorded, report: Report) -> None:
    """Repeat each answer of `record`, with the others to its prompt taken away, and compare."""
    report.num_requests += 1
    for index, recorded in enumerate(record.answers):
        try:
            requests = cold.add_request(record.prompt_token_ids, record.params)
        except InvalidRequest as error:
            report.differences.append(f"{record.name} is refused: {error}")
            return
        cold.abort(r for r in requests if r.index != index)
        while cold.has_unfinished:
            cold.step()
        if index == len(requests):
            break
        report.num_answers += 1
        report.num_tokens += len(recorded.token_ids)
        report.num_logprobs += sum(map(len, [*(recorded.logprobs or ()), *recorded.prompt_logprobs]))
        difference = requests[index].error or _difference(recorded, _answer(requests[index]))
        if difference:
            report.differences.append(f"{record.name}, answer {index}: {difference}")
    if len(record.answers) != record.params.n:
        report.differences.append(f"{record.name} has {len(record.answers)} answers, {record.params.n} were asked for")


def _difference(recorded: Answer, found: Answer) -> str | None:
    for place, (then, now) in enumerate(zip(recorded.token_ids, found.token_ids, strict=False)):
        if then != now:
            return f"token {place} was {then}, cold it is {now}"
    if len(recorded.token_ids) > len(found.token_ids) or (
        recorded.whole and len(recorded.token_ids) < len(found.token_ids)
    ):
        return f"it had {len(recorded.token_ids)} tokens, cold it has {len(found.token_ids)}"
    if recorded.logprobs is not None and len(recorded.logprobs) != len(recorded.token_ids):
        return f"it had {len(recorded.token_ids)} tokens, and log-probabilities of {len(recorded.logprobs)}"
    parts = (
        ("", recorded.logprobs or [], found.logprobs or []),
        ("the prompt's ", recorded.prompt_logprobs, found.prompt_logprobs),
    )
    for part, hot, cold in parts:
        for place, (before, after) in enumerate(zip(hot, cold, strict=False)):
            if before != after:
                token = next(t for t in [*before, *after] if before.get(t) != after.get(t))
                shown = f"was {_shown(before, token)}, cold it is {_shown(after, token)}"
                return f"at {part}token {place} the logprob of {token} {shown}"
    return None


def _shown(position: Mapping[int, tuple[str, int]], token: int) -> str:
    if token not in position:
        return "not reported"
    bits, rank = position[token]
    return f"{float.fromhex(bits)!r} (rank {rank})"


def _answer(request: Request) -> Answer:
    wanted = request.params.logprobs is not None
    return Answer(
        request.token_ids[request.num_prompt_tokens :],
        [_position(p) for p in request.logprobs] if wanted else None,
        whole=request.finish_reason in ("stop", "length"),
        prompt_logprobs=[_position(p) for p in request.prompt_logprobs if p is not None],
    )


def _position(position: PositionLogprobs) -> Position:
    return {token: (entry.logprob.hex(), entry.rank) for token, entry in position.items()}


def _engine(model: LoadedModel, *, drafter: Drafter | None = None, **settings: Any) -> Engine:
    """An engine over the same weights that knows of no earlier request."""
    config = EngineConfig(model=str(model.path), **settings)
    return Engine(
        model.program,
        model.tokenizer,
        config,
        vocab_size=model.config.vocab_size,
        max_model_len=model.max_model_len,
        drafter=drafter,
    )


def _facts(model: LoadedModel) -> dict[str, Any]:
    """What an answer's bits depend on, as a receipt names it."""
    info = model.program.info
    return {
        "version": __version__,
        "architecture": model.config.architecture,
        "quantization": model.config.quantization,
        "executor": info.executor,
        "isa": info.isa,
        "kv_cache_dtype": info.kv_cache_dtype,
        "activations": info.activations,
        "max_model_len": model.max_model_len,
    }


def _records(data: bytes, name: str) -> Iterator[Recorded]:
    try:
        value = parse_json_object(data, name)
    except FormatError as error:
        raise InvalidParameter("results", str(error)) from error
    try:
        if "receipt" in value:
            yield _record(value, name)
        elif value["response"]["status_code"] == 200:
            for i, own in enumerate(value["response"]["body"]["pellucid"]):
                yield _record(own, f"{value['custom_id']}[{i}]")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidParameter(
            "results", f"{name} is not a result with a receipt, as `batch --receipts` and `run --json` write it"
        ) from error


def _record(value: Mapping[str, Any], name: str) -> Recorded:
    receipt = value["receipt"]
    answers = []
    for output in value["outputs"]:
        positions = output["logprobs"]
        logprobs = None
        if positions is not None:
            logprobs = [
                {int(t): (float(e["logprob"]).hex(), int(e["rank"])) for t, e in position.items()}
                for position in positions
            ]
        whole = output.get("finish_reason") not in ("abort", "error")
        answers.append(Answer([int(t) for t in output["token_ids"]], logprobs, whole))
    given = dict(receipt["sampling_params"])
    if given.get("logit_bias"):
        given["logit_bias"] = {int(token): bias for token, bias in given["logit_bias"].items()}
    if given.get("structured_outputs"):
        given["structured_outputs"] = StructuredOutputs(**given["structured_outputs"])
    facts = {key: receipt[key] for key in receipt if key != "sampling_params"}
    return Recorded(name, [int(t) for t in value["prompt_token_ids"]], SamplingParams(**given), answers, facts)


def first_receipt(path: Path) -> dict[str, Any]:
    """Under what the results of a file were made; empty if it holds none."""
    for record in read_results(path):
        return dict(record.facts or {})
    return {}
