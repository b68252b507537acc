"""What `pellucid serve` says when it is ready: what is served, where, how fast, and to whom it is open."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from pellucid import __version__
from pellucid.errors import PellucidError
from pellucid.sampling import SamplingParams
from pellucid.server.messages import Finished, GenerateRequest
from pellucid.server.model_client import ModelClient
from pellucid.server.state import ServerState

SPEED_TOKENS = 16
SPEED_TIME = 5.0  # seconds after which the measurement is given up

_speed_tasks: set[asyncio.Task[None]] = set()


def print_banner(state: ServerState, url: str) -> None:
    """On standard output, at once; the measured speed follows."""
    print("".join(f"{line}\n" for line in banner(state, url)), end="", flush=True)  # one write: the log cannot cut in
    task = asyncio.get_running_loop().create_task(_print_speeds(list(state.registry.clients.values())))
    _speed_tasks.add(task)
    task.add_done_callback(_speed_tasks.discard)


def banner(state: ServerState, url: str) -> Iterator[str]:
    settings = state.settings
    yield f"pellucid {__version__} is ready: {url}"
    for name, client in state.registry.clients.items():
        info = client.info
        model = info.receipt
        yield (
            f"  {name:10} {model.architecture}, {model.quantization}, on {model.executor} "
            f"({model.isa}, {model.threads} threads, activations in {model.activations}), "
            f"loaded in {info.load_seconds:.1f} s"
        )
        yield (
            f"  {'':10} {info.max_model_len:,} tokens of context; {info.max_num_seqs} answers at once; room for "
            f"{info.num_blocks * info.block_size:,} tokens in the KV cache ({model.kv_cache_dtype})"
        )
    yield f"  OpenAI     {url}/v1   (base_url of the clients)"
    yield f"  look       {url}/docs   {url}/metrics   {url}/health/ready"
    yield f"  open to    {_open_to(state)}"
    if not settings.strict:
        yield "  not strict unknown fields of requests are left out, and named in the header x-pellucid-ignored"


def _open_to(state: ServerState) -> str:
    settings, keys = state.settings, len(state.keys)
    where = "programs on this machine" if settings.is_loopback else "everyone who can reach this address"
    how = f"with one of {keys} API keys" if keys > 1 else "with the API key" if keys else "WITHOUT AN API KEY"
    pages = (
        f"; pages of {', '.join(settings.cors_origins)}" if settings.cors_origins else "; no web pages of other sites"
    )
    return f"{where}, {how}{pages}"


async def _print_speeds(clients: list[ModelClient]) -> None:
    for client in clients:
        try:
            speed = await asyncio.wait_for(_speed(client), SPEED_TIME)
        except (TimeoutError, PellucidError):
            continue
        if speed is not None:
            print(f"  speed      {client.name}: {speed:,.0f} tokens/s for one answer, measured just now", flush=True)


async def _speed(client: ModelClient) -> float | None:
    """Tokens a second of one short answer."""
    params = SamplingParams(temperature=0, max_tokens=SPEED_TOKENS, ignore_eos=True)
    async for answer in client.generate(GenerateRequest(prompt="Once upon a time", params=params, stream=False)):
        if isinstance(answer, Finished):
            return answer.result.metrics.decode_tokens_per_second
    return None
