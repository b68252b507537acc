"""The sampler against a plain one that sorts everything, in float64."""

import math
from typing import Any

import numpy as np
import pytest

from pellucid.engine.random import uniform
from pellucid.engine.sampler import Row, RowSampler, Sampled, draw, nucleus, ranked_logprobs, sample_rows, top_ids
from pellucid.errors import ExecutorError
from pellucid.sampling import SamplingParams

RNG = np.random.default_rng(11)
SHAPES = [1, 2, 5, 63, 64, 65, 257, 1000, 5000]


def row(size: int, kind: str = "normal") -> np.ndarray:
    if kind == "peaked":
        return (RNG.standard_normal(size) ** 3 * 2).astype(np.float32)
    if kind == "ties":
        return RNG.integers(-3, 4, size).astype(np.float32)
    if kind == "flat":
        return np.full(size, -1.25, np.float32)
    return (RNG.standard_normal(size) * 2).astype(np.float32)


def sampler(
    prompt: list[int] | None = None, end: frozenset[int] = frozenset(), index: int = 0, **fields: Any
) -> RowSampler:
    params = SamplingParams(**{"seed": 5, **fields})
    return RowSampler(params, seed=params.seed or 0, index=index, end_token_ids=end, prompt_token_ids=prompt or [])


def sample(logits: np.ndarray, position: int = 3, **fields: Any) -> int:
    return sampler(**fields).sample(logits, num_output_tokens=0, position=position)


def plain_distribution(logits: np.ndarray, p: SamplingParams) -> np.ndarray:
    """Probabilities after temperature, top_k, top_p and min_p: sort, cut, renormalise."""
    order = np.argsort(-logits, kind="stable")
    w = np.exp((logits.astype(np.float64) - logits.max()) / p.temperature)[order]
    keep = len(w) if p.top_k == 0 else min(p.top_k, len(w))
    w[keep:] = 0
    reached = np.flatnonzero(np.cumsum(w) >= p.top_p * w.sum() * (1 - 1e-12))
    w[(reached[0] if p.top_p < 1 else len(w)) + 1 :] = 0
    w[w < p.min_p * w[0]] = 0
    result = np.zeros(len(w))
    result[order] = w / w.sum()
    return result


@pytest.mark.parametrize("kind", ["normal", "peaked", "ties", "flat"])
@pytest.mark.parametrize("size", SHAPES)
def test_top_ids_is_the_head_of_a_stable_sort(size: int, kind: str) -> None:
    x = row(size, kind)
    expected = np.argsort(-x, kind="stable")
    for count in {1, 2, size // 64, size // 64 + 1, size // 2, size - 1, size, size + 7} - {0}:
        np.testing.assert_array_equal(top_ids(x, count), expected[:count])


@pytest.mark.parametrize("kind", ["normal", "peaked", "ties", "flat"])
@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.9, 0.999])
def test_nucleus_is_the_smallest_set_that_reaches_top_p(size: int, kind: str, top_p: float) -> None:
    x = row(size, kind)
    weights = np.exp(x - x.max())
    kept = nucleus(weights, top_p)
    order = np.argsort(-weights, kind="stable")
    assert sorted(kept) == sorted(order[: len(kept)]), "it is not made of the largest weights"
    total = weights.sum(dtype=np.float64)
    assert weights[kept].sum(dtype=np.float64) >= top_p * total * (1 - 1e-12)
    assert weights[order[: len(kept) - 1]].sum(dtype=np.float64) < top_p * total * (1 + 1e-12)


def test_a_top_p_next_to_one_keeps_all_that_counts() -> None:
    """The target then lies within the rounding of the sums; some of these rows never reach it."""
    for _ in range(40):
        weights = np.exp(-40 * RNG.random(3000)).astype(np.float32)
        weights /= weights.max()
        kept = nucleus(weights, math.nextafter(1, 0))
        assert weights[kept].sum(dtype=np.float64) > (1 - 1e-12) * weights.sum(dtype=np.float64)


@pytest.mark.parametrize("size", SHAPES)
def test_draw_follows_the_running_sum(size: int) -> None:
    weights = np.where(RNG.random(size) < 0.3, 0, RNG.random(size)).astype(np.float32)
    weights[RNG.integers(size)] = 1
    sums = np.cumsum(weights, dtype=np.float64)
    for u in [0.0, 1 - 2**-53, *RNG.random(50)]:
        chosen = draw(weights, u)
        assert weights[chosen] > 0
        before = sums[chosen - 1] if chosen else 0.0
        assert before - 1e-9 <= u * sums[-1] <= sums[chosen] + 1e-9


@pytest.mark.parametrize("place", [0, 1, 255, 256, 299])
def test_a_token_without_weight_is_never_drawn(place: int) -> None:
    weights = np.zeros(300, np.float32)
    weights[place] = 1e-30
    assert [draw(weights, u) for u in (0.0, 0.5, 1 - 2**-53)] == [place] * 3


CUTS = [
    {}, {"temperature": 0.3}, {"temperature": 5.0}, {"top_k": 1}, {"top_k": 7}, {"top_p": 0.8}, {"min_p": 0.1},
    {"top_k": 20, "top_p": 0.7}, {"top_p": 0.9, "min_p": 0.05, "temperature": 1.7}, {"top_k": 50, "min_p": 0.2},
    {"top_k": 10**9}, {"top_p": 1e-6},
]  # fmt: skip


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_samples_are_distributed_as_documented(cut: dict[str, Any]) -> None:
    logits = row(60)
    expected = plain_distribution(logits, SamplingParams(**cut))
    count = 4000
    one = sampler(**cut)
    drawn = [one.sample(logits, num_output_tokens=0, position=p) for p in range(count)]
    found = np.bincount(drawn, minlength=60) / count
    assert not found[expected == 0].any(), "a token that was cut away was drawn"
    assert np.abs(found - expected).max() < 4 * math.sqrt(0.25 / count)


@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize("kind", ["normal", "peaked"])
def test_a_sample_is_the_inverse_cdf_of_one_uniform_number(cut: dict[str, Any], kind: str) -> None:
    logits = row(3000, kind)
    cdf = np.cumsum(plain_distribution(logits, SamplingParams(**cut)))
    for position in range(40):
        token, u = sample(logits, position, **cut), uniform(5, 0, position)
        assert (cdf[token - 1] if token else 0) - 1e-5 <= u <= cdf[token] + 1e-5


def test_greedy_takes_the_smallest_id_of_equals() -> None:
    logits = np.array([1, 7, 3, 7, 7], np.float32)
    assert sample(logits, temperature=0) == 1
    assert sample(logits, temperature=0, logit_bias={3: 0.5}) == 3


def test_top_k_of_equals_keeps_the_smallest_ids() -> None:
    logits = np.zeros(500, np.float32)
    assert {sample(logits, p, top_k=3) for p in range(200)} == {0, 1, 2}


def test_repetition_penalty_counts_prompt_and_answer_the_others_only_the_answer() -> None:
    logits = np.array([4.0, -4.0, 3.9, 0.0], np.float32)
    one = sampler(prompt=[0, 1], temperature=0, repetition_penalty=2.0, presence_penalty=0.5, frequency_penalty=0.25)
    np.testing.assert_array_equal(one._process(logits, 0), np.array([2.0, -8.0, 3.9, 0.0], np.float32))
    one.accept(2)
    one.accept(2)
    one.accept(0)
    expected = np.array([2.0 - 0.5 - 0.25, -8.0, 3.9 / np.float32(2) - 0.5 - 2 * 0.25, 0.0], np.float32)
    np.testing.assert_allclose(one._process(logits, 3), expected, rtol=1e-6)
    assert logits.tolist() == [4.0, -4.0, np.float32(3.9), 0.0], "the caller's row was changed"


def test_penalties_remember_many_tokens() -> None:
    one = sampler(prompt=list(range(300)), temperature=0, frequency_penalty=1.0)
    for token in range(100, 500):
        one.accept(token)
    expected = np.zeros(600, np.float32)
    expected[100:500] = -1
    np.testing.assert_array_equal(one._process(np.zeros(600, np.float32), 400), expected)


def test_bias_comes_before_penalties() -> None:
    one = sampler(prompt=[0], temperature=0, repetition_penalty=2.0, logit_bias={0: 4.0})
    assert one._process(np.array([-2.0, 0.0], np.float32), 0).tolist() == [1.0, 0.0]  # (-2 + 4) / 2


def test_min_tokens_masks_end_tokens_until_then() -> None:
    logits = np.array([0, 9, 8, 1], np.float32)
    for fields in ({"temperature": 0}, {"temperature": 0.001}, {"top_p": 0.5}, {"top_k": 1}, {"logit_bias": {1: 100}}):
        one = sampler(end=frozenset({1, 2}), min_tokens=2, **{"temperature": 0.01, **fields})
        assert [one.sample(logits, num_output_tokens=i, position=0) for i in range(3)] == [3, 3, 1]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 50, 99])
@pytest.mark.parametrize("fields", [{"temperature": 0}, {}, {"top_k": 5}], ids=str)
def test_logits_that_are_not_numbers_are_an_error(bad: float, place: int, fields: dict[str, Any]) -> None:
    logits = row(100)
    logits[place] = bad
    with pytest.raises(ExecutorError, match="1 of 100 logits"):
        sample(logits, **fields)
    with pytest.raises(ExecutorError, match="1 of 100 logits"):
        ranked_logprobs(logits, 0, 1)


@pytest.mark.parametrize("fields", [{"temperature": 0}, {}, {"top_k": 1}, {"top_p": 0.5}], ids=str)
def test_nothing_left_to_choose_is_an_error(fields: dict[str, Any]) -> None:
    with pytest.raises(ExecutorError, match="masked"):
        sample(np.zeros(2, np.float32), end=frozenset({0, 1}), min_tokens=1, **fields)


def test_extreme_logits_do_not_overflow() -> None:
    logits = np.array([3e36, -3e36, 3e36, 0], np.float32)
    for fields in ({}, {"temperature": 0.001}, {"temperature": 100}, {"top_p": 0.9}, {"min_p": 0.1}):
        assert sample(logits, **fields) in (0, 2)


@pytest.mark.parametrize("size", [1, 70, 4000])
@pytest.mark.parametrize("kind", ["normal", "ties"])
def test_logprobs_are_a_log_softmax_of_the_raw_logits(size: int, kind: str) -> None:
    logits = row(size, kind)
    x = logits.astype(np.float64)
    expected = x - x.max() - np.log(np.exp(x - x.max()).sum())
    order = np.argsort(-logits, kind="stable").tolist()
    for token in {0, size // 2, size - 1, order[0]}:
        found = ranked_logprobs(logits, token, 5)
        assert found[0].token_id == token
        assert [r.token_id for r in found[1:]] == [i for i in order[:5] if i != token]
        for r in found:
            assert abs(r.logprob - expected[r.token_id]) < 2e-6
            assert order[r.rank - 1] == r.token_id
    assert len(ranked_logprobs(logits, order[-1], 0)) == 1


@pytest.mark.parametrize("fields", [*CUTS, {"temperature": 0}, {"repetition_penalty": 1.3}], ids=str)
def test_a_row_gives_the_same_bits_wherever_it_lies(fields: dict[str, Any]) -> None:
    """Rows of odd width start at every alignment; vector loops must not treat their ends differently."""
    logits = row(4999)
    table = np.ascontiguousarray(RNG.standard_normal((17, 4999)), np.float32)
    expected = [sample(logits, p, prompt=[3, 5], **fields) for p in range(20)]
    for r in range(17):
        table[r] = logits
        assert [sample(table[r], p, prompt=[3, 5], **fields) for p in range(20)] == expected
        assert ranked_logprobs(table[r], 7, 3) == ranked_logprobs(logits, 7, 3)


def test_answers_of_one_request_differ_and_repeat() -> None:
    logits = np.zeros(1000, np.float32)
    answers = [[sampler(index=i).sample(logits, num_output_tokens=0, position=p) for p in range(8)] for i in (0, 1, 0)]
    assert answers[0] == answers[2] != answers[1]


class OnlyAllow:
    """A constraint that allows the same few ids every time."""

    is_finished = False

    def __init__(self, *allowed: int, vocab_size: int = 100) -> None:
        bits = np.zeros(-(-vocab_size // 32) * 32, np.uint8)
        bits[list(allowed)] = 1
        self._mask = np.packbits(bits, bitorder="little").view(np.uint32)
        self.accepted: list[int] = []
        self.num_masks = 0

    def mask(self) -> np.ndarray:
        self.num_masks += 1
        return self._mask

    def accept(self, token: int) -> None:
        self.accepted.append(token)


def constrained(constraint: OnlyAllow, **fields: Any) -> RowSampler:
    return RowSampler(
        SamplingParams(**fields), seed=5, index=0, end_token_ids=frozenset(), prompt_token_ids=[], constraint=constraint
    )


@pytest.mark.parametrize("fields", [{"temperature": 0}, {}, {"top_k": 5}, {"top_p": 0.5}, {"min_p": 0.5}], ids=str)
def test_only_what_the_constraint_allows_is_chosen(fields: dict[str, Any]) -> None:
    constraint = OnlyAllow(3, 31, 32, 99)
    one = constrained(constraint, **fields)
    tokens = {one.sample(row(100), num_output_tokens=0, position=p) for p in range(50)}
    assert tokens <= {3, 31, 32, 99}
    assert constraint.num_masks == 1, "one mask serves until a token is accepted"
    one.accept(31)
    one.prepare()
    assert (constraint.accepted, constraint.num_masks) == ([31], 2)


def test_a_constraint_that_allows_nothing_is_an_error() -> None:
    [found] = sample_rows([Row(constrained(OnlyAllow()), row(100), 0, 0)])
    assert isinstance(found, ExecutorError)
    assert "masked" in str(found)


def test_rows_are_sampled_together_and_fail_alone() -> None:
    logits = np.zeros((4, 100), np.float32)
    logits[0, 7] = logits[3, 9] = 5
    logits[1, 50] = math.nan
    greedy = sampler(temperature=0)
    rows = [Row(greedy, x, 0, 3, n) for x, n in zip(logits, [None, None, 2, 0], strict=True)]
    first, second, third, fourth = sample_rows(rows)
    assert first == Sampled(7)
    assert isinstance(second, ExecutorError)
    assert third == Sampled(0, ranked_logprobs(logits[2], 0, 2))
    assert fourth == Sampled(9, ranked_logprobs(logits[3], 9, 0))
