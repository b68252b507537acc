"""Channel: frames of messages over a socket pair, for one event loop on each side.

A frame is four bytes of length (big-endian) and a MessagePack array of messages. What is posted in one turn of the loop
leaves as one frame, so a step of the engine costs one write and one read however many requests it moved. Nothing here
waits: whoever has much to send asks `is_writable` first, and is told by `on_writable` when that becomes true again.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import msgspec

from pellucid.errors import InvalidRequest, ResourceError

logger = logging.getLogger(__name__)

MAX_FRAME_NBYTES = 256 << 20
MAX_MESSAGE_NBYTES = 64 << 20
HIGH_WATER_NBYTES = 1 << 20
"""Bytes waiting to be written above which a channel is not writable."""

_HEADER_NBYTES = 4
_ARRAY_NBYTES = 5

M = TypeVar("M")

_encoder = msgspec.msgpack.Encoder()


class Channel(asyncio.Protocol, Generic[M]):
    """One end. `on_messages` gets the messages of each frame, `on_closed` is called once, whichever side closed.

    A frame that is too long or cannot be read closes the channel: the other side cannot be trusted any more.
    """

    def __init__(
        self,
        received: Any,
        on_messages: Callable[[list[M]], None],
        on_closed: Callable[[], None],
        on_writable: Callable[[], None] = lambda: None,
    ) -> None:
        """`received` is the union of the message types that the other side may send."""
        self._decoder: msgspec.msgpack.Decoder[list[M]] = msgspec.msgpack.Decoder(list[received])
        self._on_messages = on_messages
        self._on_closed = on_closed
        self._on_writable = on_writable
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._expected = 0  # bytes of the frame that has begun; 0: its length is not known yet
        self._outbox: list[bytes] = []
        self._outbox_nbytes = 0
        self._paused = False
        self.is_closed = False

    async def open(self, end: socket.socket) -> None:
        """Take over `end` of a socket pair."""
        await self._loop.create_unix_connection(lambda: self, sock=end)

    @property
    def is_writable(self) -> bool:
        """False while much that was posted has not been taken by the other side."""
        return not (self._paused or self.is_closed or self._outbox_nbytes > HIGH_WATER_NBYTES)

    def post(self, encoded: bytes) -> None:
        """Send a message made by `encode` with all others of this turn of the loop; after closing, to nobody."""
        if self.is_closed:
            return
        if not self._outbox:
            self._loop.call_soon(self._flush)
        self._outbox.append(encoded)
        self._outbox_nbytes += len(encoded)

    def close(self) -> None:
        if self._transport is not None:
            self._flush()
            self._transport.close()

    def abort(self) -> None:
        """Close at once; what was posted may be lost."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's do not derive from it
        self._transport.set_write_buffer_limits(high=HIGH_WATER_NBYTES)

    def data_received(self, data: bytes) -> None:
        self._received += data
        start, end = 0, len(self._received)
        while end - start >= _HEADER_NBYTES:
            length = int.from_bytes(self._received[start : start + _HEADER_NBYTES], "big")
            if length > MAX_FRAME_NBYTES:
                self._give_up(f"a frame of {length} bytes; at most {MAX_FRAME_NBYTES} are allowed")
                return
            if end - start - _HEADER_NBYTES < length:
                break
            start += _HEADER_NBYTES
            with memoryview(self._received) as view:
                try:
                    messages = self._decoder.decode(view[start : start + length])
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                    self._give_up(f"a frame that is not understood ({error})")
                    return
            start += length
            self._on_messages(messages)
            if self.is_closed:
                return
        del self._received[:start]

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._on_writable()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.is_closed:
            self.is_closed = True
            self._outbox.clear()
            self._received.clear()
            self._on_closed()

    def _flush(self) -> None:
        if not self._outbox or self._transport is None or self.is_closed:
            return
        first, nbytes = 0, 0
        for i, encoded in enumerate(self._outbox):
            if nbytes + len(encoded) > MAX_FRAME_NBYTES - _ARRAY_NBYTES:
                self._transport.write(frame(self._outbox[first:i]))
                first, nbytes = i, 0
            nbytes += len(encoded)
        self._transport.write(frame(self._outbox[first:]))
        self._outbox.clear()
        self._outbox_nbytes = 0

    def _give_up(self, what: str) -> None:
        logger.error("the other side of a channel sent %s; the channel is closed", what)
        if self._transport is not None:
            self._transport.abort()
        self.is_closed = True
        self._on_closed()


def frame(encoded: list[bytes]) -> bytes:
    """Encoded messages as one frame."""
    array = b"\xdd" + len(encoded).to_bytes(4, "big")  # MessagePack: an array with a length of 32 bits
    nbytes = len(array) + sum(map(len, encoded))
    return b"".join([nbytes.to_bytes(_HEADER_NBYTES, "big"), array, *encoded])


def encode(message: msgspec.Struct) -> bytes:
    """A message as bytes, to be posted.

    Raises InvalidRequest if it holds what MessagePack cannot carry, ResourceError if it is too long.
    """
    try:
        encoded = _encoder.encode(message)
    except UnicodeEncodeError:
        raise InvalidRequest("the request holds half a character (a lone surrogate); expected Unicode text") from None
    except RecursionError:
        raise InvalidRequest("the request is nested too deeply") from None
    except (OverflowError, TypeError, ValueError) as error:
        raise InvalidRequest(f"the request holds a value that cannot be sent to the engine: {error}") from None
    if len(encoded) > MAX_MESSAGE_NBYTES:
        raise ResourceError(f"this takes {len(encoded)} bytes, more than the {MAX_MESSAGE_NBYTES} that can be sent")
    return encoded
