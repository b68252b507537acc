"""The parts a GGUF header is made of: numbers, strings and arrays, each checked before it is believed.

Source: the GGUF specification (ggml/docs/gguf.md), versions 2 and 3. Everything is little-endian; a string is a u64
length and UTF-8 bytes without terminator; an array is a u32 element type, a u64 count and its elements.
"""

from __future__ import annotations

import math
import mmap
from enum import IntEnum
from struct import Struct
from typing import Any

import numpy as np

from pellucid.errors import FormatError
from pellucid.formats.gguf_strings import read_strings

MAX_STRING_NBYTES = 32 << 20  # chat templates are kilobytes; an embedded tokenizer.json is the largest in use, 20 MB
MAX_ARRAY_DEPTH = 4
MAX_NUMBERS = 1 << 24  # in one array
MAX_STRINGS = 1 << 20  # in all arrays of one file; a 262,144-token vocabulary with merges has 800,000
MAX_INNER_ARRAYS = 1 << 12  # in one file; rare
MAX_COPIED_NBYTES = 48 << 20  # of all values of one file; Gemma 3, with a vocabulary of 262,144 tokens, has 7 MB


class ValueType(IntEnum):
    """The type numbers of metadata values."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


_FORMATS = {
    ValueType.UINT8: "<u1",
    ValueType.INT8: "<i1",
    ValueType.UINT16: "<u2",
    ValueType.INT16: "<i2",
    ValueType.UINT32: "<u4",
    ValueType.INT32: "<i4",
    ValueType.FLOAT32: "<f4",
    ValueType.BOOL: "<u1",
    ValueType.UINT64: "<u8",
    ValueType.INT64: "<i8",
    ValueType.FLOAT64: "<f8",
}
_U32 = Struct("<I")
_U64 = Struct("<Q")
_STRING_MIN_NBYTES = 8
_ARRAY_MIN_NBYTES = 12


class HeaderCursor:
    """A position in a GGUF header that only moves over bytes that are there.

    Every method takes `what`, the name of the thing being read, for its message. All raise FormatError.
    """

    def __init__(self, buffer: mmap.mmap, file_name: str) -> None:
        self.buffer = buffer
        self.size = len(buffer)
        self.position = 0
        self.file_name = file_name
        self._left = {ValueType.STRING: MAX_STRINGS, ValueType.ARRAY: MAX_INNER_ARRAYS}
        self._nbytes_left = MAX_COPIED_NBYTES

    def error(self, message: str) -> FormatError:
        return FormatError(f"{self.file_name!r}: {message}")

    def skip(self, nbytes: int, what: str) -> int:
        """Moves over `nbytes` bytes and returns where they start."""
        start = self.position
        if nbytes > self.size - start:
            raise self.error(
                f"{what} needs {nbytes} bytes at offset {start}, but the file ends after {self.size}; "
                "it is truncated or damaged: download it again"
            )
        self.position = start + nbytes
        return start

    def u32(self, what: str) -> int:
        value: int = _U32.unpack_from(self.buffer, self.skip(4, what))[0]
        return value

    def u64(self, what: str) -> int:
        value: int = _U64.unpack_from(self.buffer, self.skip(8, what))[0]
        return value

    def count(self, what: str, most: int, min_nbytes: int) -> int:
        """A u64 that counts things of at least `min_nbytes` bytes each: at most `most`, and they must fit the file."""
        count = self.u64(f"the number of {what}")
        room = (self.size - self.position) // min_nbytes
        if count > min(most, room):
            limit = f"at most {room} fit into the rest of the file" if room < most else f"the limit is {most}"
            raise self.error(f"it announces {count} {what}, but {limit}; the file is truncated or damaged")
        return count

    def string(self, what: str, most: int = MAX_STRING_NBYTES) -> str:
        """Text must be UTF-8: replacing or escaping bytes would change tokens without anyone noticing."""
        length = self.u64(f"the length of {what}")
        if length > most:
            raise self.error(f"{what} announces {length} bytes of text, the limit is {most}")
        start = self._copy(length, what)
        try:
            return self.buffer[start : start + length].decode()
        except UnicodeDecodeError as error:
            raise self.error(
                f"{what} at offset {start} is not UTF-8: {error.reason} at its byte {error.start}"
            ) from None

    def name(self, what: str, most: int) -> str:
        """A key or tensor name: not empty, no control characters, as it will be printed."""
        name = self.string(what, most)
        if not name or not name.isprintable():
            raise self.error(f"{what} is {name!r}; a name is not empty and has no control characters")
        return name

    def value_type(self, what: str) -> ValueType:
        number = self.u32(f"the type of {what}")
        try:
            return ValueType(number)
        except ValueError:
            raise self.error(f"{what} has the unknown value type {number}; GGUF defines 0 to 12") from None

    def value(self, type: ValueType, what: str) -> Any:
        """A metadata value: int, finite float, bool, str, or an array as `array` returns it."""
        if type is ValueType.STRING:
            return self.string(what)
        if type is ValueType.ARRAY:
            return self.array(what)
        number = self._numbers(type, 1, what)[0].item()
        if isinstance(number, float) and not math.isfinite(number):
            raise self.error(f"{what} is {number}, which is not a finite number")
        return number

    def array(self, what: str, depth: int = 1) -> Any:
        """Numbers and bools: a NumPy array (a copy) of the file's element type. Strings and arrays: a list."""
        if depth > MAX_ARRAY_DEPTH:
            raise self.error(f"{what} nests arrays more than {MAX_ARRAY_DEPTH} deep")
        type = self.value_type(f"the elements of {what}")
        if type is ValueType.STRING:
            return self._strings(self._objects(type, _STRING_MIN_NBYTES, what), what)
        if type is ValueType.ARRAY:
            return [self.array(what, depth + 1) for _ in range(self._objects(type, _ARRAY_MIN_NBYTES, what))]
        itemsize = np.dtype(_FORMATS[type]).itemsize
        return self._numbers(type, self.count(f"elements of {what}", MAX_NUMBERS, itemsize), what)

    def _numbers(self, type: ValueType, count: int, what: str) -> Any:
        dtype = np.dtype(_FORMATS[type])
        start = self._copy(count * dtype.itemsize, what)
        numbers = np.frombuffer(self.buffer, dtype, count, start).copy()
        if type is not ValueType.BOOL:
            return numbers
        if numbers.max(initial=0) > 1:
            raise self.error(f"{what} holds the byte {numbers.max()} where a bool is 0 or 1")
        return numbers.view(np.bool_)

    def _copy(self, nbytes: int, what: str) -> int:
        """As `skip`, for bytes that become a value in memory. A file has so many of them in all."""
        start = self.skip(nbytes, what)
        self._spend(nbytes, what)
        return start

    def _spend(self, nbytes: int, what: str) -> None:
        self._nbytes_left -= nbytes
        if self._nbytes_left < 0:
            raise self.error(
                f"with {what} the header's values pass {MAX_COPIED_NBYTES} bytes in all; the file is damaged"
            )

    def _objects(self, type: ValueType, min_nbytes: int, what: str) -> int:
        """A count of strings or inner arrays. Each becomes a Python object, so a file has so many of them in all."""
        count = self.count(f"elements of {what}", self._left[type], min_nbytes)
        self._left[type] -= count
        return count

    def _strings(self, count: int, what: str) -> list[str]:
        element = f"an element of {what}"

        def read_one(position: int) -> tuple[str, int]:
            self.position = position
            return self.string(element), self.position

        strings, self.position = read_strings(
            self.buffer, self.position, count, read_one, lambda nbytes: self._spend(nbytes, what)
        )
        return strings
