"""A model and a tokenizer for tests of everything around the model: exact, scripted, milliseconds.

`FakeProgram` keeps the token ids themselves in a paged "KV cache" and predicts from what it reads back, so a wrong
slot, a stale block or a lost token changes the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pellucid.errors import ExecutorError, InvalidParameter
from pellucid.executors.base import BLOCK_SIZE, Batch, BlockCopy, KVGroup, ProgramInfo, StepResult
from pellucid.graph.passes.hidden import HIDDEN
from pellucid.text.vocabulary import SpecialToken

VOCAB_SIZE = 260
BOS, EOS, END_OF_TURN, UNUSED = 256, 257, 258, 259

Predict = Callable[[list[int]], np.ndarray]


def hashed(tokens: list[int]) -> np.ndarray:
    """Logits that depend on every token and its place."""
    state = 0
    for token in tokens:
        state = (state * 1_000_003 + token + 1) % (2**61 - 1)
    return np.random.default_rng(state).standard_normal(VOCAB_SIZE).astype(np.float32) * 3


def one_hot(token: int) -> np.ndarray:
    logits = np.zeros(VOCAB_SIZE, np.float32)
    logits[token] = 30.0
    return logits


def continuing(*texts: str | Sequence[int]) -> Predict:
    """Predicts the rest of whichever text the tokens so far begin, then EOS. Texts are prompt and answer together."""
    scripts = [[*t.encode()] if isinstance(t, str) else list(t) for t in texts]

    def predict(tokens: list[int]) -> np.ndarray:
        tokens = [t for t in tokens if t != BOS]
        for script in scripts:
            if script[: len(tokens)] == tokens and len(script) > len(tokens):
                return one_hot(script[len(tokens)])
        return one_hot(EOS)

    return predict


class FakeProgram:
    """Checks every promise that a Batch makes, then answers from `predict(tokens)`."""

    def __init__(
        self,
        predict: Predict = hashed,
        *,
        hidden: Predict = lambda _: np.zeros(1, np.float32),
        num_blocks: int = 64,
        windows: Sequence[int] = (0,),
    ) -> None:
        groups = tuple(KVGroup(window, num_blocks) for window in windows)
        self.info = ProgramInfo("fake", "none", 1, "int64", "int64", groups, 0)
        self.batches: list[Batch] = []
        self.copies: list[BlockCopy] = []
        self.fail_next = False
        self._predict = predict
        self._hidden = hidden
        self._cache = np.full((len(groups), num_blocks * BLOCK_SIZE), -1)  # token id by group and slot
        self._closed = False

    def copy_blocks(self, copies: Sequence[BlockCopy]) -> None:
        blocks = self._cache.reshape(len(self._cache), -1, BLOCK_SIZE)
        for group, source, destination in copies:
            blocks[group, destination] = blocks[group, source]
        self.copies += copies

    def run(self, batch: Batch) -> StepResult:
        if self._closed:
            raise ExecutorError("the program is closed")
        if self.fail_next:
            self.fail_next = False
            for cache, slots in zip(self._cache, batch.slot_mapping, strict=True):
                cache[slots] = -7  # undefined from here on
            raise ExecutorError("the step failed")
        self.batches.append(batch)
        batch.check(self.info.kv_groups, VOCAB_SIZE)
        for cache, slots in zip(self._cache, batch.slot_mapping, strict=True):
            cache[slots] = batch.token_ids
        logits = np.zeros((len(batch.logit_rows), VOCAB_SIZE), np.float32)
        for r, row in enumerate(batch.logit_rows):
            logits[r] = self._predict(self._tokens_up_to(batch, row))
        hidden = [self._hidden(self._tokens_up_to(batch, row)) for row in batch.hidden_rows]
        return StepResult(logits, {HIDDEN: np.array(hidden, np.float32)})

    def _tokens_up_to(self, batch: Batch, row: int) -> list[int]:
        b = int(np.searchsorted(batch.query_start, row, side="right")) - 1
        return self._read(batch, b, int(batch.positions[row]) + 1)

    def _read(self, batch: Batch, b: int, length: int) -> list[int]:
        """The first `length` tokens of sequence b, each from the group that sees it and has the shortest window.

        Without a group that sees all, tokens behind the windows are 0.
        """
        found = np.zeros(length, np.int64)
        for g, group in sorted(enumerate(self.info.kv_groups), key=lambda entry: -(entry[1].window or 2**31)):
            places = np.arange(max(0, length - group.window) if group.window else 0, length)
            slots = batch.block_tables[g, b, places // BLOCK_SIZE].astype(np.int64) * BLOCK_SIZE + places % BLOCK_SIZE
            found[places] = self._cache[g, slots]
        return found.tolist()

    def close(self) -> None:
        self._closed = True


CONTROL_TEXTS = ("<s>", "</s>", "<end>", "<unused>")


class ByteTokenizer:
    """One token a byte, and four control tokens."""

    vocab_size = VOCAB_SIZE
    bos_token_id: int | None = BOS
    eos_token_ids = frozenset({EOS})
    strips_leading_space = False
    chat_template = None
    special_tokens = tuple(SpecialToken(BOS + i, text) for i, text in enumerate(CONTROL_TEXTS))

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        return [BOS] * (add_special and self.bos_token_id is not None) + list(text.encode("utf-8", "replace"))

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        return b"".join(b"" if skip_special and self.is_special(i) else self.token_bytes(i) for i in ids).decode(
            "utf-8", "replace"
        )

    def token_bytes(self, id: int) -> bytes:
        if id >= self.vocab_size:
            raise InvalidParameter("token id", f"{id} does not exist")
        return bytes([id]) if id < 256 else CONTROL_TEXTS[id - BOS].encode()

    def token_str(self, id: int) -> str:
        return self.token_bytes(id).decode("utf-8", "replace")

    def is_special(self, id: int) -> bool:
        return id >= 256
