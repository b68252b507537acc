"""Channel: frames in one piece whatever the pieces they come in, and a bound on what waits to be written."""

import asyncio
import random
import socket
from typing import Any

import msgspec
import pytest

from pellucid.engine.outputs import Logprob, StreamChunk
from pellucid.errors import (
    ContextLengthExceeded,
    EngineRestarting,
    InvalidParameter,
    InvalidRequest,
    PellucidError,
    ResourceError,
    UnsupportedParameter,
)
from pellucid.sampling import SamplingParams
from pellucid.server.channel import HIGH_WATER_NBYTES, Channel, encode, frame
from pellucid.server.messages import (
    Chunk,
    Command,
    Event,
    Failed,
    Generate,
    GenerateRequest,
    Text,
    failed,
    on_the_wire,
    params_of,
    raised,
)
from pellucid.structured_outputs import StructuredOutputs

CHUNK = Chunk(7, StreamChunk(0, "häß", [1, 2], [{5: Logprob(-0.5, 1, "a"), 6: Logprob(-2.0, 2, "b")}], None))


class Side:
    def __init__(self, received: Any) -> None:
        self.frames: list[list[Any]] = []
        self.num_closed = 0
        self.num_writable = 0
        self.channel: Channel[Any] = Channel(received, self.frames.append, self._closed, self._writable)

    def _closed(self) -> None:
        self.num_closed += 1

    def _writable(self) -> None:
        self.num_writable += 1


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def test_what_is_posted_in_one_turn_arrives_as_one_frame() -> None:
    async def talk() -> None:
        front, engine = Side(Event), Side(Command)
        ours, theirs = socket.socketpair()
        await front.channel.open(ours)
        await engine.channel.open(theirs)
        for i in range(3):
            engine.channel.post(encode(Text(i, "x" * i)))
        engine.channel.post(encode(CHUNK))
        front.channel.post(encode(Generate(1, GenerateRequest(prompt=[1, 2], params={"seed": 2**64 - 1}))))
        await until(lambda: front.frames and engine.frames)
        assert front.frames == [[Text(0, ""), Text(1, "x"), Text(2, "xx"), CHUNK]]
        assert engine.frames[0][0].request.params == {"seed": 2**64 - 1}
        front.channel.close()
        await until(lambda: engine.num_closed and front.num_closed)
        assert (front.num_closed, engine.num_closed) == (1, 1)
        engine.channel.post(encode(CHUNK))  # to nobody

    asyncio.run(talk())


def test_frames_may_come_in_any_pieces() -> None:
    async def talk() -> None:
        rng = random.Random(0)
        messages = [Text(i, "y" * rng.randrange(300)) for i in range(100)]
        stream = b"".join(frame([encode(m) for m in messages[i : i + 10]]) for i in range(0, 100, 10))
        side = Side(Event)
        side.channel._transport = None
        while stream:
            cut = rng.choice([1, 2, 3, 50, 1000])
            side.channel.data_received(stream[:cut])
            stream = stream[cut:]
        assert [m for f in side.frames for m in f] == messages

    asyncio.run(talk())


@pytest.mark.parametrize(
    "sent",
    [
        (2**31).to_bytes(4, "big"),
        frame([b"\xc1"]),
        frame([msgspec.msgpack.encode(["Unknown", 1])]),
        frame([msgspec.msgpack.encode(["Text", "not a number", "x"])]),
        frame([msgspec.msgpack.encode(["Text", 1, b"\xff"])]),
        frame([b"\x91" * 5000 + b"\x90"]),
    ],
)
def test_a_frame_that_cannot_be_read_closes_the_channel(sent: bytes) -> None:
    async def talk() -> None:
        side = Side(Event)
        ours, theirs = socket.socketpair()
        await side.channel.open(ours)
        theirs.sendall(sent)
        await until(lambda: side.num_closed)
        assert side.frames == []
        theirs.close()

    asyncio.run(talk())


def test_a_reader_that_does_not_read_makes_the_channel_unwritable_until_it_does() -> None:
    async def talk() -> None:
        engine = Side(Command)
        ours, theirs = socket.socketpair()
        await engine.channel.open(theirs)
        posted = 0
        message = encode(Text(1, "z" * 10_000))
        while engine.channel.is_writable and posted < 100 * HIGH_WATER_NBYTES:
            engine.channel.post(message)
            posted += len(message)
            await asyncio.sleep(0)
        assert posted < 4 * HIGH_WATER_NBYTES
        assert engine.num_writable == 0
        ours.setblocking(False)
        await until(lambda: not _drain(ours) and engine.num_writable)
        assert engine.channel.is_writable
        engine.channel.close()
        ours.close()

    asyncio.run(talk())


def _drain(end: socket.socket) -> int:
    try:
        return len(end.recv(1 << 20))
    except BlockingIOError:
        return 0


@pytest.mark.parametrize(
    "value", ["\ud800", 2**64, {"a": object()}, {"a": [[]]}], ids=["surrogate", "number", "object", "depth"]
)
def test_what_cannot_be_sent_is_the_callers_error(value: Any) -> None:
    if isinstance(value, dict) and value["a"] == [[]]:
        for _ in range(100_000):
            value["a"] = [value["a"]]
    with pytest.raises(InvalidRequest):
        encode(Generate(1, GenerateRequest(messages=[value])))


def test_a_message_that_is_too_long_is_refused() -> None:
    with pytest.raises(ResourceError, match="can be sent"):
        encode(Text(1, "a" * (64 << 20)))


@pytest.mark.parametrize(
    "error",
    [
        InvalidParameter("top_p", "too much"),
        UnsupportedParameter("echo", "not yet"),
        ContextLengthExceeded("too long"),
        EngineRestarting("soon"),
        PellucidError("internal"),
    ],
)
def test_errors_come_out_as_they_went_in(error: PellucidError) -> None:
    message = msgspec.msgpack.decode(msgspec.msgpack.encode(failed(3, error)), type=Failed)
    found = raised(message)
    assert type(found) is type(error)
    assert (str(found), found.code, found.http_status) == (str(error), error.code, error.http_status)
    assert getattr(found, "param", None) == getattr(error, "param", None)


def test_an_error_of_a_class_that_the_other_side_does_not_know_goes_as_its_base() -> None:
    class Own(InvalidParameter):
        pass

    assert failed(1, Own("n", "no")).kind == "InvalidParameter"
    assert type(raised(Failed(1, "NoSuchKind", "text"))) is PellucidError


def test_sampling_parameters_survive_the_way() -> None:
    params = SamplingParams(
        temperature=0.7,
        logit_bias={5: -1.5},
        stop=["a", "b"],
        seed=2**64 - 1,
        logprobs=0,
        structured_outputs=StructuredOutputs(json={"type": "object"}),
    )
    sent = encode(Generate(1, on_the_wire(GenerateRequest(prompt="x", params=params))))
    received: Any = msgspec.msgpack.decode(sent, type=Command)
    assert params_of(received.request) == params
    assert on_the_wire(GenerateRequest(prompt="x")).params == {}


def test_a_form_keeps_the_name_of_the_field_that_asked_for_it() -> None:
    form = StructuredOutputs(json_object=True).asked_by("response_format")
    sent = encode(Generate(1, on_the_wire(GenerateRequest(params=SamplingParams(structured_outputs=form)))))
    received: Any = msgspec.msgpack.decode(sent, type=Command)
    found = params_of(received.request).structured_outputs
    assert isinstance(found, StructuredOutputs)
    assert (found.param, found.asked_by("x").param, form == found) == ("response_format", "x", True)
