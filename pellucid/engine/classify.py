"""Classification: the label that a language model finds most likely after a text, with probabilities and reasons.

    score(label) = Σ over its tokens of  log p(token | prompt, tokens before)  -  the same after content-free texts
    p(label)     = softmax over the labels

The second term is calibration: what the model says of every text, because a word is common or comes last in the
prompt, is taken away (Zhao et al. 2021, "Calibrate Before Use", whose content-free inputs these are; Holtzman et al.
2021, "Surface Form Competition", for the sum over tokens). Several inputs are averaged, as logarithms, so that what is
taken away can be told token by token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pellucid.engine.explain import log_odds, without_each
from pellucid.engine.label_scores import LabelScorer, TokenScores
from pellucid.engine.loader import LoadedModel
from pellucid.engine.outputs import ModelReceipt, Usage
from pellucid.engine.reading import Reader
from pellucid.engine.results import model_receipt
from pellucid.errors import InvalidParameter
from pellucid.fields import boolean, show

DEFAULT_TEMPLATE = "Text: {text}\nCategory:"
CONTENT_FREE = ("N/A", "", "[MASK]")


@dataclass(frozen=True)
class TokenContribution:
    """One token of a label. `contribution` is `logprob` less `baseline`, its mean after content-free texts (nats).

    `baseline` is 0 without calibration. The contributions of a label's tokens add up to its score.
    """

    token_id: int
    token: str
    logprob: float
    baseline: float
    contribution: float


@dataclass(frozen=True)
class SentenceContribution:
    """One sentence of the text, and by how much the log-odds of the label found are lower without it (nats)."""

    text: str
    contribution: float


@dataclass(frozen=True)
class ClassificationOutput:
    """`label` is the most likely one, the first of equals; `probabilities` are in the order of the labels, sum 1.

    `sentence_contributions` is None unless an explanation was asked for. `calibration` lists the content-free texts.
    `usage` counts the prompt once; labels of several tokens and explanations read it again.
    """

    text: str
    label: str
    probabilities: dict[str, float]
    token_contributions: dict[str, list[TokenContribution]]
    sentence_contributions: list[SentenceContribution] | None
    prompt: str
    prompt_token_ids: list[int]
    template: str
    calibration: tuple[str, ...]
    usage: Usage
    receipt: ModelReceipt


def classify(
    reader: Reader,
    model: LoadedModel,
    texts: Sequence[str],
    labels: Sequence[str],
    *,
    template: str | None,
    calibrate: bool | Sequence[str],
    explain: bool,
) -> list[ClassificationOutput]:
    """Raises InvalidParameter and ContextLengthExceeded, before anything is computed; ExecutorError."""
    for text in texts:
        if not isinstance(text, str):
            raise InvalidParameter("texts", f"expected text, got {show(text)}")
    boolean("explain", explain)
    calibration = _content_free(calibrate)
    scorer = LabelScorer(reader, model.tokenizer, labels, DEFAULT_TEMPLATE if template is None else template)
    prompts = [scorer.prompt(text) for text in texts]
    neutral = [scores for scores, _ in scorer.score([scorer.prompt(text)[1] for text in calibration])]
    baseline = _mean(neutral) if neutral else [[0.0] * len(ids) for ids in scorer.token_ids]
    receipt = model_receipt(model)

    def contributions(scores: TokenScores) -> dict[str, list[TokenContribution]]:
        return {
            label: [
                TokenContribution(token, model.tokenizer.token_str(token), logprob, mean, logprob - mean)
                for token, logprob, mean in zip(ids, own, means, strict=True)
            ]
            for label, ids, own, means in zip(scorer.labels, scorer.token_ids, scores, baseline, strict=True)
        }

    found = []
    for text, (prompt, _), (scores, request) in zip(
        texts, prompts, scorer.score([token_ids for _, token_ids in prompts]), strict=True
    ):
        tokens = contributions(scores)
        totals = _totals(tokens)
        label = max(scorer.labels, key=totals.__getitem__)
        sentences = None
        if explain:
            parts = without_each(text)
            rests = [_totals(contributions(s)) for s, _ in scorer.score([scorer.prompt(rest)[1] for _, rest in parts])]
            odds = log_odds(totals, label)
            sentences = [
                SentenceContribution(part, odds - log_odds(rest, label))
                for (part, _), rest in zip(parts, rests, strict=True)
            ]
        found.append(
            ClassificationOutput(
                text=text,
                label=label,
                probabilities=_softmax(totals),
                token_contributions=tokens,
                sentence_contributions=sentences,
                prompt=prompt,
                prompt_token_ids=request.token_ids,
                template=DEFAULT_TEMPLATE if template is None else template,
                calibration=calibration,
                usage=Usage(request.num_tokens, 0, request.num_tokens, request.num_cached_tokens),
                receipt=receipt,
            )
        )
    return found


def _content_free(calibrate: bool | Sequence[str]) -> tuple[str, ...]:
    if isinstance(calibrate, bool):
        return CONTENT_FREE if calibrate else ()
    ok = isinstance(calibrate, Sequence) and not isinstance(calibrate, str | bytes) and len(calibrate) > 0
    if not ok or not all(isinstance(text, str) for text in calibrate):
        raise InvalidParameter("calibrate", f"expected True, False or a list of texts, got {show(calibrate)}")
    return tuple(calibrate)


def _mean(several: list[TokenScores]) -> TokenScores:
    """The mean for each token of each label."""
    return [[math.fsum(same) / len(same) for same in zip(*label, strict=True)] for label in zip(*several, strict=True)]


def _totals(tokens: dict[str, list[TokenContribution]]) -> dict[str, float]:
    return {label: sum(token.contribution for token in own) for label, own in tokens.items()}


def _softmax(totals: dict[str, float]) -> dict[str, float]:
    top = max(totals.values())
    weights = {label: math.exp(total - top) for label, total in totals.items()}
    whole = math.fsum(weights.values())
    return {label: weight / whole for label, weight in weights.items()}
