"""GrammarCompiler: compiles grammars beside the engine, in bounded time, threads and memory, and keeps them."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from pellucid.errors import InvalidParameter, InvalidRequest, ResourceError
from pellucid.structured.letters import Letters
from pellucid.structured.limits import COMPILE_SECONDS
from pellucid.structured.matcher import Grammar, GrammarMatcher
from pellucid.structured.vocabulary import build_table, token_finder
from pellucid.structured_outputs import StructuredOutputs
from pellucid.thread_pool import started_pool

if TYPE_CHECKING:
    from pellucid.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

NewMatcher = Callable[[], GrammarMatcher]

MAX_THREADS = 2
MAX_WAITING = 256
MAX_KEPT = 64
MAX_KEPT_NBYTES = 1 << 20
"""Of the texts that the kept grammars were compiled from; compiled, they take about a hundred times as much."""

TABLE_SECONDS = 20.0
"""Added to the deadline while the token table is still to be made: 1.3 s for Gemma 3 on an idle machine."""

_STACK_NBYTES = 64 << 20  # of address space: recursion in a parser is to meet our limits first


class GrammarCompiler:
    """Compiles for one model. Any thread may call it; threads and the token table are made when first needed.

    A grammar that takes too long fails its request at the deadline, even if its thread goes on; two such threads and
    nothing new is compiled until one of them ends, while grammars that are kept go on being served.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, *, seconds: float = COMPILE_SECONDS) -> None:
        """`vocab_size`: the width of the logits."""
        self._tokenizer = tokenizer
        self._find_token = token_finder(tokenizer, vocab_size)
        self._vocab_size = vocab_size
        self._seconds = seconds
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, tuple[Future[NewMatcher], int]] = OrderedDict()
        # Python waits for these threads at exit: one that came back from Rust after the interpreter would crash
        self._threads: ThreadPoolExecutor | None = None
        self._num_waiting = 0
        self._table: tuple[Any, Letters] | None = None
        self._table_lock = threading.Lock()

    def submit(self, spec: StructuredOutputs) -> Future[NewMatcher]:
        """A future of what makes the constraint of each answer; it fails with the error to give to the request.

        Raises ResourceError when too many grammars wait.
        """
        key = sha256(repr((spec, spec.param)).encode()).digest()
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
            if self._num_waiting >= MAX_WAITING:
                raise ResourceError(f"{MAX_WAITING} grammars wait to be compiled; try again later")
            self._threads = self._threads or _start_threads()
            future: Future[NewMatcher] = Future()
            self._num_waiting += 1
            self._threads.submit(self._compile, spec, future)
            self._kept[key] = future, len(repr(spec))
            self._drop_oldest()
        future.add_done_callback(lambda done: self._forget_failed(key, done))
        seconds = self._seconds + (TABLE_SECONDS if self._table is None else 0.0)
        deadline = threading.Timer(seconds, self._expire, [spec, future])
        deadline.daemon = True
        deadline.start()
        future.add_done_callback(lambda _: deadline.cancel())
        return future

    def compile(self, spec: StructuredOutputs) -> NewMatcher:
        """`submit` and wait. Raises InvalidParameter, InvalidRequest, ResourceError."""
        return self.submit(spec).result()

    def _drop_oldest(self) -> None:
        nbytes = sum(size for _, size in self._kept.values())
        while len(self._kept) > 1 and (len(self._kept) > MAX_KEPT or nbytes > MAX_KEPT_NBYTES):
            nbytes -= self._kept.popitem(last=False)[1][1]

    def _forget_failed(self, key: bytes, future: Future[NewMatcher]) -> None:
        """A grammar that failed is not kept: the machine may have been busy."""
        if future.exception() is not None:
            with self._lock:
                if key in self._kept and self._kept[key][0] is future:
                    del self._kept[key]

    def _expire(self, spec: StructuredOutputs, future: Future[NewMatcher]) -> None:
        with suppress(InvalidStateError):
            future.set_exception(
                InvalidParameter(spec.param, f"it took more than {self._seconds:g} s to compile; make it simpler")
            )

    def _compile(self, spec: StructuredOutputs, future: Future[NewMatcher]) -> None:
        with self._lock:
            self._num_waiting -= 1
        if future.done():  # it waited until its deadline
            return
        try:
            from pellucid.structured.grammar import lark_of  # the readers of all notations; most programs need none

            table, letters = self._token_table()
            grammar = Grammar(table, lark_of(spec, self._find_token), param=spec.param, letters=letters)
        except InvalidRequest as error:
            outcome: BaseException | NewMatcher = error
        except BaseException as error:  # a panic in Rust is no Exception
            logger.exception("compiling a grammar failed")
            outcome = InvalidRequest(f"{spec.param}: it cannot be compiled ({type(error).__name__})")
        else:
            outcome = grammar.matcher
        with suppress(InvalidStateError):  # the deadline has passed
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    def _token_table(self) -> tuple[Any, Letters]:
        with self._table_lock:
            if self._table is None:
                self._table = build_table(self._tokenizer, self._vocab_size)
            return self._table


def _start_threads() -> ThreadPoolExecutor:
    before = threading.stack_size(_STACK_NBYTES)
    try:
        return started_pool(MAX_THREADS, "pellucid-grammars")
    finally:
        threading.stack_size(before)
