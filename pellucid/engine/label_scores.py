"""Label scores: how likely a model finds each label as the continuation of a prompt, token by token.

A label follows the prompt after a space. One pass over the prompt gives its first token for all labels at once; labels
with more tokens take one pass each over the prompt and themselves, in which only their own rows have logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from pellucid.engine.reading import Reader
from pellucid.engine.readout import TokenLogprobs
from pellucid.engine.request import Request
from pellucid.errors import InvalidParameter
from pellucid.fields import show
from pellucid.text.tokenizer import Tokenizer

MAX_LABELS = 1000
PLACEHOLDER = "{text}"

TokenScores = list[list[float]]
"""For each label the log-probabilities of its tokens, in nats."""


class LabelScorer:
    """Scores `labels` after texts that `template` makes prompts of; it holds "{text}" once and goes on after it."""

    def __init__(self, reader: Reader, tokenizer: Tokenizer, labels: Sequence[str], template: str) -> None:
        """Raises InvalidParameter for labels that cannot be told apart, and for a template without a place for both."""
        self._reader = reader
        self._tokenizer = tokenizer
        self._template = _checked_template(template)
        self.labels = _checked_labels(labels)
        end = self._template.partition(PLACEHOLDER)[2]
        self.token_ids = [self._label_tokens(end, label) for label in self.labels]
        self._refuse_beginnings()

    def prompt(self, text: str) -> tuple[str, list[int]]:
        """The prompt for a text and its token ids. Raises ContextLengthExceeded if a label does not fit behind it."""
        prompt = self._template.replace(PLACEHOLDER, text)
        token_ids = self._tokenizer.encode(prompt)
        longest = max(self.token_ids, key=len)
        self._reader.engine.validate([*token_ids, *longest[:-1]])
        return prompt, token_ids

    def score(self, prompts: Sequence[list[int]]) -> Iterator[tuple[TokenScores, Request]]:
        """For each prompt the scores of all labels, and the request that read it. Memory is bounded by the engine."""
        first_ids = [ids[0] for ids in self.token_ids]
        longer = [ids for ids in self.token_ids if len(ids) > 1]
        group = self._reader.max_queued
        for at in range(0, len(prompts), group):
            some = prompts[at : at + group]
            firsts = [TokenLogprobs(len(prompt) - 1, [first_ids]) for prompt in some]
            requests = self._reader.read(zip(some, firsts, strict=True))
            rests = [[TokenLogprobs(len(prompt), [[t] for t in ids[1:]]) for ids in longer] for prompt in some]
            self._reader.read(
                (prompt + ids[:-1], rest)
                for prompt, own in zip(some, rests, strict=True)
                for ids, rest in zip(longer, own, strict=True)
            )
            for first, own, request in zip(firsts, rests, requests, strict=True):
                following = iter(own)
                scores = [
                    [logprob, *([lp for [lp] in next(following).logprobs] if len(ids) > 1 else ())]
                    for logprob, ids in zip(first.logprobs[0], self.token_ids, strict=True)
                ]
                yield scores, request

    def _label_tokens(self, end: str, label: str) -> list[int]:
        """What is added to the tokens of the template's end when the label follows it."""
        before = self._tokenizer.encode(end, add_special=False)
        both = self._tokenizer.encode(f"{end} {label}", add_special=False)
        if both[: len(before)] != before or len(both) == len(before):
            raise InvalidParameter(
                "labels", f"{show(label)} has no tokens of its own behind {show(end)}; change the end of the template"
            )
        return both[len(before) :]

    def _refuse_beginnings(self) -> None:
        """A label that begins another one could never be less likely than it."""
        ordered = sorted(zip(self.token_ids, self.labels, strict=True))
        for (ids, label), (next_ids, next_label) in pairwise(ordered):
            if next_ids[: len(ids)] == ids:
                raise InvalidParameter(
                    "labels",
                    f"the tokens of {show(label)} begin those of {show(next_label)}, so it could never be less likely; "
                    "rename one so that they differ earlier",
                )


def _checked_labels(labels: Sequence[str]) -> list[str]:
    if isinstance(labels, str | bytes) or not isinstance(labels, Sequence):
        raise InvalidParameter("labels", f"expected a list of strings, got {show(labels)}")
    if not 2 <= len(labels) <= MAX_LABELS:
        raise InvalidParameter("labels", f"expected 2 to {MAX_LABELS} labels, got {len(labels)}")
    for label in labels:
        if not isinstance(label, str) or not label or label != label.strip():
            raise InvalidParameter("labels", f"expected text without space around it, got {show(label)}")
    if len(set(labels)) < len(labels):
        twice = next(label for i, label in enumerate(labels) if label in labels[:i])
        raise InvalidParameter("labels", f"{show(twice)} is there twice")
    return list(labels)


def _checked_template(template: str) -> str:
    if not isinstance(template, str) or template.count(PLACEHOLDER) != 1:
        raise InvalidParameter("template", f"expected text with {PLACEHOLDER} in it once, got {show(template)}")
    end = template.partition(PLACEHOLDER)[2]
    if not end.strip() or end != end.rstrip():
        raise InvalidParameter(
            "template", f"expected it to go on after {PLACEHOLDER} and end without space: the label follows after one"
        )
    return template
