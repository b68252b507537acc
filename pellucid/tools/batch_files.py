"""The files of `pellucid batch`: its input, checked and indexed, and the journal that makes it survive a kill.

The journal is OUTPUT.part: one line that says what the run is, then output lines as they are done. Each is appended
whole and fsynced within a second. When every input line has its output line, they are written in the order of the input
to a second file, which takes the place of OUTPUT in one rename. So OUTPUT is there only when it is complete, and a run
killed at any moment goes on from the journal; a last line torn by the kill is cut off and answered again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import monotonic
from typing import Any, BinaryIO, NoReturn

from pellucid.errors import FormatError, InvalidParameter, InvalidRequest
from pellucid.fields import show
from pellucid.formats.json_file import parse_json_object

MAX_LINE_NBYTES = 64 << 20
MAX_CUSTOM_ID_CHARS = 512
FSYNC_SECONDS = 1.0
_DIGEST = 16


class BatchInput:
    """A JSON-lines file of requests, each with a custom_id of its own. Keeps about 200 bytes a line, not the lines."""

    def __init__(self, path: Path) -> None:
        """Reads it once. Raises InvalidParameter that names the line which is no JSON object with a custom_id."""
        self.path = path
        self.index: dict[str, int] = {}
        self._starts = array("q")
        self._digests = bytearray()
        for number, start, line in self._lines():
            custom_id = self._parse(number, line).get("custom_id")
            if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MAX_CUSTOM_ID_CHARS:
                self._refuse(number, f"expected a custom_id of 1 to {MAX_CUSTOM_ID_CHARS} characters")
            if custom_id in self.index:
                self._refuse(number, f"has the custom_id {custom_id[:80]!r}, which an earlier line has, too")
            self.index[custom_id] = len(self._starts)
            self._starts.append(start)
            self._digests += hashlib.sha256(line).digest()[:_DIGEST]
        if not self._starts:
            raise InvalidParameter("input", f"{path.name!r} has no lines; expected one request a line")
        self.created = int(path.stat().st_mtime)

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def sha256(self) -> str:
        """Of all lines."""
        return hashlib.sha256(self._digests).hexdigest()

    def digest(self, i: int) -> bytes:
        return bytes(self._digests[i * _DIGEST : (i + 1) * _DIGEST])

    def lines(self, wanted: bytearray) -> Iterator[tuple[int, dict[str, Any]]]:
        """(i, its object) for each line with wanted[i]. Raises InvalidRequest when the file has changed meanwhile."""
        with self.path.open("rb") as file:
            for i in range(len(self)):
                if wanted[i]:
                    file.seek(self._starts[i])
                    line = file.readline(MAX_LINE_NBYTES + 1).strip()
                    if hashlib.sha256(line).digest()[:_DIGEST] != self.digest(i):
                        raise InvalidRequest(f"{str(self.path)!r} was changed while it was being answered")
                    yield i, parse_json_object(line, f"line {i}")

    def _lines(self) -> Iterator[tuple[int, int, bytes]]:
        """(line number from 1, offset, bytes without white space around) of every line that is not blank."""
        try:
            with self.path.open("rb") as file:
                number, start = 0, 0
                while line := file.readline(MAX_LINE_NBYTES + 1):
                    number += 1
                    if len(line) > MAX_LINE_NBYTES:
                        self._refuse(number, f"has more than {MAX_LINE_NBYTES} bytes")
                    if stripped := line.strip():
                        yield number, start, stripped
                    start += len(line)
        except OSError as error:
            raise InvalidParameter("input", f"{str(self.path)!r} cannot be read: {error.strerror}") from error

    def _parse(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            return parse_json_object(line, "it")
        except FormatError as error:
            self._refuse(number, str(error))

    def _refuse(self, number: int, message: str) -> NoReturn:
        raise InvalidParameter("input", f"line {number} of {self.path.name!r}: {message}")


class Journal:
    """What is done of a run. `header` says what decides about the output; a run with another one cannot go on."""

    def __init__(self, output: Path, lines: BatchInput, header: Mapping[str, Any]) -> None:
        """Opens or begins OUTPUT.part. Raises InvalidParameter when OUTPUT.part is of another run, or in use."""
        self._output, self._lines = output, lines
        self.path = journal_path(output)
        self._key = hashlib.sha256(_dump(header)).digest()
        self._places: dict[int, tuple[int, int]] = {}
        self.num_errors = 0
        self._file = _open(self.path)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise InvalidParameter("output", f"{str(self.path)!r} is being written by another run") from None
        self.header = self._read_header(header)
        self._read_lines()
        self._synced = monotonic()

    @property
    def num_done(self) -> int:
        return len(self._places)

    def missing(self) -> bytearray:
        """1 for each line that has no answer yet."""
        return bytearray(i not in self._places for i in range(len(self._lines)))

    def key(self, i: int) -> str:
        """A name for the answer to line i that depends on the line and on everything that decides about its answer."""
        return hashlib.sha256(self._key + self._lines.digest(i)).hexdigest()[:24]

    def answer_id(self, i: int) -> str:
        """The `id` of the output line."""
        return f"batch_req_{self.key(i)}"

    def append(self, i: int, answer: Mapping[str, Any]) -> None:
        """Add the output line for input line i."""
        line = _dump(answer) + b"\n"
        self._file.write(line)
        self._file.flush()
        self._keep(i, answer, len(line))
        if monotonic() - self._synced > FSYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._synced = monotonic()

    def finish(self) -> None:
        """Write OUTPUT, complete and in order, and remove the journal."""
        ordered = self._output.with_name(self._output.name + ".tmp")
        with ordered.open("wb") as file:
            for i in range(len(self._lines)):
                start, length = self._places[i]
                self._file.seek(start)
                file.write(self._file.read(length))
            file.flush()
            os.fsync(file.fileno())
        os.replace(ordered, self._output)
        _sync_folder(self._output.parent)  # before the journal goes
        self.path.unlink()
        self.close()

    def close(self) -> None:
        self._file.close()

    def _read_header(self, header: Mapping[str, Any]) -> dict[str, Any]:
        self._file.seek(0)
        first = self._file.readline(MAX_LINE_NBYTES)
        if not first.endswith(b"\n"):  # new, or killed before it was written
            own = {**header, "created": self._lines.created}
            self._file.truncate(0)
            self._file.seek(0)
            self._file.write(_dump(own) + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
            return own
        found = read_header(self.path)
        changed = [name for name in header if found.get(name) != header[name]]
        if changed:
            what = "; ".join(f"{n} was {show(found.get(n))}, now {show(header[n])}" for n in changed)
            self._file.close()
            raise InvalidParameter(
                "output", f"{str(self.path)!r} is of a run that cannot be continued ({what}); remove it to begin anew"
            )
        return found

    def _keep(self, i: int, answer: Mapping[str, Any], length: int) -> None:
        self._places[i] = (self._end, length)
        self._end += length
        self.num_errors += _is_error(answer)

    def _read_lines(self) -> None:
        """Find the answers that are there; cut off what was torn."""
        self._end = self._file.tell()
        while (line := self._file.readline(4 * MAX_LINE_NBYTES)).endswith(b"\n"):
            try:
                answer = json.loads(line)
                i = self._lines.index[answer["custom_id"]]
                sound = answer["id"] == self.answer_id(i) and i not in self._places
            except (ValueError, KeyError, TypeError):
                sound = False
            if not sound:
                break
            self._keep(i, answer, len(line))
        self._file.truncate(self._end)
        self._file.seek(self._end)

    def is_output_complete(self) -> bool:
        """Whether OUTPUT is what this run would write."""
        with self._output.open("rb") as file:
            for i, custom_id in enumerate(self._lines.index):
                try:
                    answer = json.loads(file.readline(4 * MAX_LINE_NBYTES))
                    if (answer["custom_id"], answer["id"]) != (custom_id, self.answer_id(i)):
                        return False
                    self.num_errors += _is_error(answer)
                except (ValueError, KeyError, TypeError):
                    return False
            return file.read(1) == b""


def journal_path(output: Path) -> Path:
    return output.with_name(output.name + ".part")


def read_header(path: Path) -> dict[str, Any]:
    """What the run of a journal is; empty if there is no journal, or none that was begun. Raises InvalidParameter."""
    try:
        with path.open("rb") as file:
            first = file.readline(MAX_LINE_NBYTES)
        return parse_json_object(first, "its first line") if first.endswith(b"\n") else {}
    except FileNotFoundError:
        return {}
    except (OSError, FormatError) as error:
        raise InvalidParameter("output", f"{str(path)!r} is no journal of pellucid batch: {error}") from error


def _is_error(answer: Mapping[str, Any]) -> bool:
    return bool(answer["response"]["status_code"] != 200)


def _open(path: Path) -> BinaryIO:
    try:
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
    except OSError as error:
        raise InvalidParameter("output", f"{str(path)!r} cannot be written: {error.strerror}") from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _dump(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
