"""Which tokens end an answer.

The rule: every id that the file itself names as an end (end of sequence, of turn, of message; in a folder also every id
in generation_config.json's `eos_token_id`), and every special token with one of the names below, which chat models use
to end a turn while their metadata names only the end of a document.
"""

from __future__ import annotations

from collections.abc import Iterable

from pellucid.text.vocabulary import SpecialToken

END_NAMES = frozenset(
    {
        "</s>",
        "<eos>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|end_of_turn|>",
        "<end_of_turn>",
        "<|return|>",
        "<EOT>",
        "<|END_OF_TURN_TOKEN|>",
    }
)


def end_of_generation_ids(named: Iterable[int], special_tokens: Iterable[SpecialToken]) -> frozenset[int]:
    return frozenset(named) | {token.id for token in special_tokens if token.text in END_NAMES}
