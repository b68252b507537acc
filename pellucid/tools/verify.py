"""`pellucid verify`: replay requests cold and compare, token for token and bit for bit.

Cold is alone, in an engine that has computed nothing before: no company, no cached prefix, no preemption. What came out
of a busy engine must be the same. The requests are those of a file of results, or a workload of our own that is made to
be hard: shared prefixes, several answers a prompt, every sampler, a cache too small for what runs, arrivals and cancels
at random moments.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from pellucid import __version__
from pellucid.config import EngineConfig
from pellucid.engine.engine import Engine
from pellucid.engine.loader import LoadedModel
from pellucid.engine.outputs import PositionLogprobs
from pellucid.engine.request import Request
from pellucid.errors import FormatError, InvalidParameter, InvalidRequest
from pellucid.fields import show
from pellucid.formats.json_file import parse_json_object
from pellucid.sampling import SamplingParams
from pellucid.structured_outputs import StructuredOutputs

RUNNING = 16
STEP_TOKENS = 96
PREFILL_CHUNK = 40
MAX_LINE_NBYTES = 256 << 20

_SAMPLERS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 1.0},
    {"temperature": 0.8, "top_k": 20, "top_p": 0.9},
    {"temperature": 1.5, "min_p": 0.02, "presence_penalty": 0.3},
    {"temperature": 0, "repetition_penalty": 1.3, "frequency_penalty": 0.5},
    {"temperature": 1.0, "logit_bias": {1: 2.0, 2: -2.0}, "min_tokens": 3},
    {"temperature": 1.0, "typical_p": 0.9},
    {"temperature": 1.0, "top_n_sigma": 1.0},
    {"temperature": 1.0, "xtc_probability": 0.5, "xtc_threshold": 0.05},
    {"temperature": 1.0, "dry_multiplier": 0.8},
    {"temperature": 1.0, "mirostat": 1},
    {"temperature": 1.0, "mirostat": 2},
    {"temperature": 1.0, "dynatemp_range": 0.5},
    {"temperature": 1.0, "no_repeat_ngram_size": 2},
]


def sampler_settings() -> list[dict[str, Any]]:
    """Those of _SAMPLERS that this version supports."""
    known = {f.name for f in fields(SamplingParams)}
    return [settings for settings in _SAMPLERS if settings.keys() <= known]


@dataclass(frozen=True)
class Answer:
    """What is compared: token ids, and log-probabilities by position and token as (bits, rank), if recorded.

    An answer that was cut off by a cancel is a beginning (`whole` is False).
    """

    token_ids: list[int]
    logprobs: list[dict[int, tuple[str, int]]] | None
    whole: bool = True


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
    for record in records:
        changed = [name for name, value in here.items() if (record.facts or here).get(name) != value]
        if changed:
            what = "; ".join(f"{n} was {show((record.facts or {}).get(n))}, here {show(here[n])}" for n in changed)
            report.differences.append(f"{record.name} cannot be compared: {what}")
            continue
        _replay(model, record, report)
    return report


def verify_workload(model: LoadedModel, *, count: int, sample: int | None = None, seed: int = 0) -> Report:
    """Run `count` requests hot, then replay `sample` of them (None: all) cold. The seed decides which requests."""
    rng = random.Random(seed)
    asks = _workload(model, count, rng)
    records, requests = _run_hot(model, asks, rng)
    report = Report(
        num_preemptions=sum(r.num_preemptions for r in requests),
        num_cancelled=sum(r.finish_reason == "abort" for r in requests),
        differences=[f"{r.id}, answer {r.index} failed: {r.error}" for r in requests if r.error],
    )
    for record in records if sample is None else rng.sample(records, min(sample, count)):
        _replay(model, record, report)
    return report


_Ask = tuple[list[int], SamplingParams]


def _workload(model: LoadedModel, count: int, rng: random.Random) -> list[_Ask]:
    room = model.max_model_len
    vocab_size = model.config.vocab_size
    samplers = sampler_settings()

    def tokens(most: int) -> list[int]:
        return [rng.randrange(vocab_size) for _ in range(rng.randint(1, max(1, most)))]

    prefixes = [tokens(room // 3) for _ in range(4)]
    asks = []
    for i in range(count):
        prompt = tokens(room // 4) if i % 3 == 0 else rng.choice(prefixes) + tokens(room // 8)
        params = SamplingParams(
            **samplers[i % len(samplers)],
            seed=rng.getrandbits(64),
            n=rng.choice([1, 1, 1, 2, 3]),
            max_tokens=rng.randint(4, max(4, min(40, room // 4))),
            ignore_eos=i % 2 == 0,
            logprobs=i % 4,
        )
        asks.append((prompt, params))
    return asks


def _run_hot(model: LoadedModel, asks: Sequence[_Ask], rng: random.Random) -> tuple[list[Recorded], list[Request]]:
    engine = _engine(model, max_num_seqs=RUNNING, max_num_batched_tokens=STEP_TOKENS, prefill_chunk=PREFILL_CHUNK)
    upcoming = list(enumerate(asks))[::-1]
    added: dict[int, list[Request]] = {}
    while upcoming or engine.has_unfinished:
        while upcoming and (rng.random() < 0.7 or not engine.has_unfinished):
            i, (prompt, params) = upcoming.pop()
            added[i] = engine.add_request(prompt, params)
        if rng.random() < 0.02 and (running := [rs for rs in added.values() if rs[0].finish_reason is None]):
            engine.abort(rng.choice(running))
        engine.step()
    records = [
        Recorded(f"request {i}", prompt, params, [_answer(r) for r in added[i]])
        for i, (prompt, params) in enumerate(asks)
    ]
    return records, [r for requests in added.values() for r in requests]


def _replay(model: LoadedModel, record: Recorded, report: Report) -> None:
    engine = _engine(model, max_num_seqs=max(1, record.params.n))
    report.num_requests += 1
    try:
        requests = engine.add_request(record.prompt_token_ids, record.params)
    except InvalidRequest as error:
        report.differences.append(f"{record.name} is refused: {error}")
        return
    while engine.has_unfinished:
        engine.step()
    for index, (recorded, request) in enumerate(zip(record.answers, requests, strict=False)):
        report.num_answers += 1
        report.num_tokens += len(recorded.token_ids)
        report.num_logprobs += sum(len(position) for position in recorded.logprobs or ())
        difference = request.error or _difference(recorded, _answer(request))
        if difference:
            report.differences.append(f"{record.name}, answer {index}: {difference}")
    if len(record.answers) != len(requests):
        report.differences.append(f"{record.name} has {len(record.answers)} answers, {len(requests)} were asked for")


def _difference(recorded: Answer, found: Answer) -> str | None:
    for place, (then, now) in enumerate(zip(recorded.token_ids, found.token_ids, strict=False)):
        if then != now:
            return f"token {place} was {then}, cold it is {now}"
    if len(recorded.token_ids) > len(found.token_ids) or (
        recorded.whole and len(recorded.token_ids) < len(found.token_ids)
    ):
        return f"it had {len(recorded.token_ids)} tokens, cold it has {len(found.token_ids)}"
    for place, (before, after) in enumerate(zip(recorded.logprobs or (), found.logprobs or (), strict=False)):
        if before != after:
            token = next(t for t in [*before, *after] if before.get(t) != after.get(t))
            shown = f"was {_shown(before, token)}, cold it is {_shown(after, token)}"
            return f"at token {place} the logprob of {token} {shown}"
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
    )


def _position(position: PositionLogprobs) -> dict[int, tuple[str, int]]:
    return {token: (entry.logprob.hex(), entry.rank) for token, entry in position.items()}


def _engine(model: LoadedModel, **settings: Any) -> Engine:
    """An engine over the same weights that knows of no earlier request."""
    config = EngineConfig(model=str(model.path), **settings)
    return Engine(
        model.program,
        model.tokenizer,
        config,
        vocab_size=model.config.vocab_size,
        max_model_len=model.max_model_len,
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
