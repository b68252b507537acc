"""Grammar and GrammarMatcher: a compiled grammar, and how far one answer has come in it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid.errors import InvalidParameter
from pellucid.structured.letters import Letters
from pellucid.structured.limits import PARSER_LIMITS

Mask = npt.NDArray[np.uint32]


class Grammar:
    """A grammar that has been compiled; immutable, shared by all answers that follow it."""

    def __init__(self, tokenizer: Any, lark: str, *, param: str, letters: Letters | None = None) -> None:
        """`tokenizer`: an LLTokenizer; `letters`: what it can spell (None: all); `param`: what errors are named after.

        Raises InvalidParameter when `lark` is no grammar, and when no answer satisfies it or can be spelled.
        """
        from llguidance import LLMatcher, LLParserLimits

        limits = LLParserLimits(**PARSER_LIMITS)
        self._matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_lark(lark), log_level=0, limits=limits)
        self._ends = _end_bits(tokenizer.vocab_size, tokenizer.eos_tokens)
        if self._matcher.is_error():
            raise InvalidParameter(param, f"it cannot be compiled: {_reason(self._matcher)}")
        self._param = param
        obstacle = None if letters is None else letters.obstacle(self._matcher)
        if obstacle is not None:
            missing = f" (it has no token for {obstacle!r})" if obstacle else ""
            raise InvalidParameter(
                param, f"no answer of this form can be written with this model's vocabulary{missing}; {_ADVICE}"
            )
        self.matcher().mask()

    def matcher(self) -> GrammarMatcher:
        """The start of a new answer."""
        return GrammarMatcher(self._matcher.deep_copy(), self._ends, self._param)


class GrammarMatcher:
    """The Constraint (engine/constraint.py) of one answer. Whatever goes wrong raises InvalidParameter.

    llguidance answers an error with a mask of the end tokens, which would pass for a finished answer, and lets a
    grammar name end tokens in its middle; so every mask is checked here, and end tokens are taken out where the grammar
    may not end.
    """

    def __init__(self, matcher: Any, ends: Mask, param: str) -> None:
        self._matcher = matcher
        self._ends = ends
        self._param = param
        self._finished = False

    def mask(self) -> Mask:
        """Bits [ceil(V / 32)] of the tokens that may be next."""
        mask = np.empty_like(self._ends)
        self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        self._check()
        if not self._finished and not self._matcher.is_accepting():
            mask &= ~self._ends
        if not mask.any():
            raise InvalidParameter(self._param, _DEAD_END)
        return mask

    def accept(self, token: int) -> None:
        self._matcher.consume_token(token)
        self._check()
        self._finished = self._matcher.is_stopped()

    @property
    def is_finished(self) -> bool:
        return self._finished

    def _check(self) -> None:
        matcher = self._matcher
        if matcher.is_error() or (
            matcher.is_stopped() and matcher.stop_reason() not in ("NoExtension", "EndOfSentence")
        ):
            raise InvalidParameter(self._param, _reason(matcher))


_ADVICE = "ask for another form, or ask another model"
_DEAD_END = f"the answer has come to a place where no token of this model's vocabulary can go on with it; {_ADVICE}"


def _end_bits(vocab_size: int, end_token_ids: list[int]) -> Mask:
    bits = np.zeros((vocab_size + 31) // 32, np.uint32)
    for token in end_token_ids:
        bits[token // 32] |= np.uint32(1 << token % 32)
    return bits


def _reason(matcher: Any) -> str:
    """The first line of llguidance's message; of a panic, nothing but that there was one."""
    message = str(matcher.get_error())
    if not message or message.startswith("panic"):
        return f"the grammar engine gave up ({matcher.stop_reason()})"
    _, _, own = message.splitlines()[0].rpartition("failed to compile JSON schema: ")
    if own == "NoExtensionBias":
        return _DEAD_END
    return own if len(own) <= 200 else own[:200] + "…"
