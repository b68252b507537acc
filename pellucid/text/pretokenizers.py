"""How byte-level tokenizers cut text into words before merging: one entry for each `tokenizer.ggml.pre` kind.

The patterns are published with the models (their tokenizer.json). None takes more than linear time on any text: where
two alternatives overlap they share at most one repeated class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pellucid.errors import UnsupportedModel

if TYPE_CHECKING:
    import tokenizers

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True)
class PreTokenizerKind:
    """`pattern` None means GPT-2's, which the library has built in."""

    pattern: str | None = None
    digits_apart: bool = False  # every digit is a word
    normalizes_nfc: bool = False
    ignores_merges: bool = False  # a word that is a token is that token, whatever the merges say
    adds_bos: bool = False  # when the file does not say


_KINDS = {
    "gpt-2": PreTokenizerKind(),
    "smollm": PreTokenizerKind(digits_apart=True),
    "llama-bpe": PreTokenizerKind(_LLAMA3, ignores_merges=True, adds_bos=True),
    "qwen2": PreTokenizerKind(_QWEN2, normalizes_nfc=True),
    "tekken": PreTokenizerKind(_TEKKEN, ignores_merges=True, adds_bos=True),
}


def pre_tokenizer_kind(name: str) -> PreTokenizerKind:
    """Raises UnsupportedModel for a kind that is not one of the model families'."""
    try:
        return _KINDS[name]
    except KeyError:
        known = ", ".join(sorted(_KINDS))
        raise UnsupportedModel(
            f"tokenizer.ggml.pre is {name!r}; the pre-tokenizers known here are {known}. "
            "Text cut by another rule would give the model other tokens than it was trained on."
        ) from None


def apply(kind: PreTokenizerKind, tokenizer: tokenizers.Tokenizer) -> None:
    """Gives `tokenizer` the kind's normalizer and pre-tokenizer."""
    from tokenizers import Regex, normalizers, pre_tokenizers

    def byte_level(use_regex: bool) -> pre_tokenizers.PreTokenizer:
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)

    steps: list[pre_tokenizers.PreTokenizer] = []
    if kind.digits_apart:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    if kind.pattern is None:
        steps.append(byte_level(use_regex=True))
    else:
        steps += [pre_tokenizers.Split(Regex(kind.pattern), "isolated"), byte_level(use_regex=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    if kind.normalizes_nfc:
        tokenizer.normalizer = normalizers.NFC()
