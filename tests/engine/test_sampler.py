"""Every sampler against its plain definition in float64, which sorts everything; and the rules they share."""

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from support import sampling_definitions as plain
from support.fake_model import ByteTokenizer

from pellucid.engine.random import uniform
from pellucid.engine.sampler import Row, RowSampler, Sampled, ranked_logprobs, sample_rows, stages
from pellucid.errors import ExecutorError, InvalidParameter
from pellucid.executors.sampling import choose_rows, rank_rows, uniform_pair
from pellucid.sampling import SamplingParams
from pellucid.sampling_fields import SAMPLERS

RNG = np.random.default_rng(11)
SHAPES = [1, 2, 5, 63, 64, 65, 511, 512, 513, 1000, 5000]
KINDS = ["normal", "peaked", "ties", "flat"]


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
    return RowSampler(
        params,
        seed=params.seed or 0,
        index=index,
        end_token_ids=end,
        prompt_token_ids=prompt or [],
        tokenizer=ByteTokenizer(),  # type: ignore[arg-type]
    )


def sample(logits: np.ndarray, position: int = 3, **fields: Any) -> int:
    return sampler(**fields).sample(logits, num_output_tokens=0, position=position)


CUTS = [
    {}, {"temperature": 0.3}, {"temperature": 5.0}, {"top_k": 1}, {"top_k": 7}, {"top_k": 300}, {"top_p": 0.8},
    {"min_p": 0.1}, {"top_k": 20, "top_p": 0.7}, {"top_p": 0.9, "min_p": 0.05, "temperature": 1.7},
    {"top_k": 50, "min_p": 0.2}, {"top_k": 10**9}, {"top_p": 1e-6}, {"top_p": 0.999, "temperature": 50},
    {"typical_p": 0.5}, {"typical_p": 0.95, "temperature": 2.0}, {"top_k": 30, "typical_p": 0.3},
    {"top_n_sigma": 0.5}, {"top_n_sigma": 1.0, "temperature": 1.5}, {"top_n_sigma": 0.0, "top_k": 3},
    {"xtc_probability": 1.0, "xtc_threshold": 0.05}, {"xtc_probability": 1.0, "top_k": 5},
    {"temperature": 0.8, "dynatemp_range": 0.7}, {"dynatemp_range": 0.5, "dynatemp_exponent": 2.0, "top_p": 0.9},
    {"mirostat": 1, "mirostat_tau": 2.0}, {"mirostat": 2, "mirostat_tau": 2.0}, {"mirostat": 2, "mirostat_tau": 0.4},
    {"samplers": SAMPLERS[::-1], "temperature": 3.0, "top_p": 0.8, "min_p": 0.02, "top_n_sigma": 2.0},
    {"samplers": ["top_p", "temperature", "top_k"], "temperature": 2.0, "top_p": 0.9, "top_k": 12},
]  # fmt: skip


@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_is_the_inverse_cdf_of_one_uniform_number(cut: dict[str, Any], kind: str) -> None:
    for size in SHAPES:
        logits = row(size, kind)
        p = plain.distribution(logits, SamplingParams(**cut), xtc_acts=cut.get("xtc_probability") == 1)
        cdf = np.cumsum(p)
        one = sampler(**cut)
        for position in range(20):
            token = one.sample(logits, num_output_tokens=0, position=position)
            u = uniform(5, 0, position)
            assert p[token] > 0, f"a token that was cut away was drawn, of {size}"
            assert (cdf[token - 1] if token else 0) - 1e-5 <= u <= cdf[token] + 1e-5, size


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_samples_are_distributed_as_defined(cut: dict[str, Any]) -> None:
    """And as often as defined: many draws under a chi-square test."""
    logits = row(40)
    p = plain.distribution(logits, SamplingParams(**cut), xtc_acts=cut.get("xtc_probability") == 1)
    one = sampler(**cut)
    count = 4000
    drawn = [one.sample(logits, num_output_tokens=0, position=position) for position in range(count)]
    assert chi_square_is_likely(np.bincount(drawn, minlength=40), p)


@pytest.mark.parametrize(
    "fields",
    [
        {"repetition_penalty": 1.5},
        {"presence_penalty": 1.2},
        {"frequency_penalty": 0.8},
        {"frequency_penalty": 0.8, "repeat_last_n": 4},
        {"dry_multiplier": 1.0, "dry_base": 1.5, "dry_allowed_length": 1},
        {"logit_bias": {3: 1.5, 7: -2.0}},
    ],
    ids=str,
)
def test_what_looks_back_and_biases_is_distributed_as_defined(fields: dict[str, Any]) -> None:
    prompt, answer = [1, 2, 3, 4, 1, 2], [5, 5, 6, 1, 2]
    logits = (np.random.default_rng(7).standard_normal(40) * 0.5).astype(np.float32)
    logits[1:8] += 1.5  # the tokens that it is about
    params = SamplingParams(**fields)
    x = plain.penalised(logits.astype(np.float64), params, prompt, answer)
    if params.dry_multiplier:
        x = plain.dry(x, params, [*prompt, *answer], set())
    for token, bias in (params.logit_bias or {}).items():
        x[token] += bias
    one = sampler(prompt=prompt, **fields)
    for token in answer:
        one.accept(token)
    drawn = [one.sample(logits, num_output_tokens=5, position=position) for position in range(11, 4011)]
    found = np.bincount(drawn, minlength=40)
    assert chi_square_is_likely(found, plain.softmax(x))
    assert not chi_square_is_likely(found, plain.softmax(logits.astype(np.float64))), "it changes too little to see"


def chi_square_is_likely(found: np.ndarray, p: np.ndarray) -> bool:
    """Pearson's test at about one in a million, cells expected below 5 put together."""
    if found[p == 0].any():
        return False
    expected = p * found.sum()
    small = expected < 5
    observed = np.append(found[~small], found[small].sum())
    wanted = np.append(expected[~small], expected[small].sum())
    observed, wanted = observed[wanted > 0], wanted[wanted > 0]
    freedom = max(1, len(wanted) - 1)
    statistic = float(((observed - wanted) ** 2 / wanted).sum())
    z = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))  # Wilson-Hilferty
    return z < 4.75


@pytest.mark.parametrize(
    ("asked", "done"),
    [
        ({"temperature": 0.9}, {"temperature": 1.0}),
        ({"top_k": 8}, {"top_k": 9}),
        ({"top_p": 0.8}, {"top_p": 0.83}),
        ({"typical_p": 0.5}, {"top_p": 0.5}),
        ({"min_p": 0.1}, {"min_p": 0.13}),
        ({"temperature": 2.0, "top_p": 0.8}, {"temperature": 2.0, "top_p": 0.8, "samplers": ["top_p", "temperature"]}),
    ],
    ids=str,
)
def test_control_a_wrong_sampler_is_found(asked: dict[str, Any], done: dict[str, Any]) -> None:
    logits = np.random.default_rng(3).permutation(40).astype(np.float32) * 0.15
    one = sampler(**done)
    drawn = [one.sample(logits, num_output_tokens=0, position=position) for position in range(6000)]
    found = np.bincount(drawn, minlength=40)
    assert chi_square_is_likely(found, plain.distribution(logits, SamplingParams(**done)))
    assert not chi_square_is_likely(found, plain.distribution(logits, SamplingParams(**asked)))


def test_random_numbers_are_those_of_random_py() -> None:
    for seed, index, position in [(0, 0, 0), (2**64 - 1, 127, 2**33), (12345, 3, 77)]:
        assert uniform_pair(seed, index, position)[0] == uniform(seed, index, position)


def test_xtc_acts_as_often_as_asked() -> None:
    logits = np.array([3.0, 2.9, 0.0], np.float32)
    one = sampler(xtc_probability=0.3, xtc_threshold=0.3, top_k=2)
    drawn = [one.sample(logits, num_output_tokens=0, position=p) for p in range(4000)]
    removed = 0.3 * 1.0 + 0.7 / (1 + math.exp(0.1))  # chance of token 1
    assert abs(drawn.count(1) / 4000 - removed) < 0.04
    assert uniform_pair(5, 0, 9)[0] != uniform_pair(5, 0, 9)[1]


@pytest.mark.parametrize("version", [1, 2])
def test_mirostat_holds_the_surprise_near_tau(version: int) -> None:
    logits = row(5000, "normal")
    p = plain.softmax(logits.astype(np.float64))
    one = sampler(mirostat=version, mirostat_tau=6.0)
    mu, surprises = 12.0, []
    for position in range(400):
        token = one.sample(logits, num_output_tokens=position, position=position)
        allowed = plain.distribution(logits, one.params, mu=mu)
        assert allowed[token] > 0, "the state differs from the definition's"
        one.accept(token)
        surprises.append(-math.log2(p[token]))
        mu -= 0.1 * (surprises[-1] - 6.0)
    assert abs(np.mean(surprises[100:]) - 6.0) < 0.3


def test_greedy_takes_the_smallest_id_of_equals() -> None:
    logits = np.array([1, 7, 3, 7, 7], np.float32)
    assert sample(logits, temperature=0) == 1
    assert sample(logits, temperature=0, logit_bias={3: 0.5}) == 3


def greedy_value(logits: np.ndarray, expected: np.ndarray, one: RowSampler, n: int) -> None:
    """Greedy choices under biases find the order of the processed logits."""
    assert one.sample(logits, num_output_tokens=n, position=9) == int(np.argmax(expected))


@pytest.mark.parametrize("window", [-1, 1, 4, 9, 100])
def test_penalties_are_those_of_the_definition(window: int) -> None:
    fields = {
        "repetition_penalty": 1.7, "presence_penalty": 0.5, "frequency_penalty": 0.25, "repeat_last_n": window,
    }  # fmt: skip
    prompt = RNG.integers(0, 12, 6).tolist()
    one = sampler(prompt=prompt, temperature=0, **fields)
    answer: list[int] = []
    for _ in range(40):
        logits = row(12)
        expected = plain.penalised(logits.astype(np.float64), one.params, prompt, answer)
        greedy_value(logits, expected, one, len(answer))
        answer.append(int(RNG.integers(0, 12)))
        one.accept(answer[-1])


def test_dry_is_that_of_the_definition() -> None:
    found = 0
    for breakers, ids in [((), set()), (("c",), {99})]:
        for _ in range(30):
            prompt = RNG.integers(97, 101, 30).tolist()
            one = sampler(
                prompt=prompt, temperature=0, dry_multiplier=0.8, dry_allowed_length=2, dry_sequence_breakers=breakers
            )
            tokens = list(prompt)
            for _ in range(10):
                logits = row(110)
                logits[97:101] += 4
                expected = plain.dry(logits.astype(np.float64), one.params, tokens, ids)
                found += int(np.argmax(expected) != np.argmax(logits))
                greedy_value(logits, expected, one, len(tokens) - 30)
                tokens.append(int(RNG.integers(97, 101)))
                one.accept(tokens[-1])
    assert found > 50, "dry must have changed something"


def test_a_breaker_may_span_tokens() -> None:
    fields: dict[str, Any] = {"temperature": 0, "dry_multiplier": 5.0, "dry_allowed_length": 2}
    logits = np.zeros(260, np.float32)
    logits[ord("d")], logits[ord("x")] = 2, 1
    prompt = list(b"abcd abc")
    assert sample(logits, prompt=prompt, dry_sequence_breakers=["q"], **fields) == ord("x")
    assert sample(logits, prompt=prompt, dry_sequence_breakers=["bc"], **fields) == ord("d")


@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_ngram_is_there_twice(size: int) -> None:
    prompt = RNG.integers(0, 6, 5).tolist()
    one = sampler(prompt=prompt, temperature=1.5, no_repeat_ngram_size=size)
    tokens = list(prompt)
    for position in range(30):
        banned = plain.ngram_completions(tokens, size)
        logits = row(40)
        allowed = [t for t in range(40) if t not in banned]
        if not allowed:
            break
        token = one.sample(logits, num_output_tokens=position, position=position)
        assert token in allowed
        left = np.where(np.isin(np.arange(40), allowed), logits.astype(np.float64) / 1.5, -np.inf)
        cdf = np.cumsum(plain.softmax(left))
        u = uniform(5, 0, position)
        assert (cdf[token - 1] if token else 0) - 1e-5 <= u <= cdf[token] + 1e-5
        tokens.append(token)
        one.accept(token)


def test_bad_words_forbid_the_last_token_of_what_has_begun() -> None:
    one = sampler(temperature=0, bad_words=["no", "x"])
    logits = np.zeros(260, np.float32)
    logits[ord("x")], logits[ord("o")], logits[ord("n")] = 9, 8, 7
    assert one.sample(logits, num_output_tokens=0, position=0) == ord("o")
    one.accept(ord("n"))
    assert one.sample(logits, num_output_tokens=1, position=1) == ord("n"), "'no' would be complete"
    assert sampler(temperature=0, bad_words=["no"], prompt=[ord("n")]).sample(
        np.eye(1, 260, ord("o"), dtype=np.float32)[0], num_output_tokens=0, position=1
    ) == ord("o"), "the prompt does not count"


def test_only_allowed_tokens_are_chosen() -> None:
    ids = [0, 31, 32, 64, 99]
    one = sampler(allowed_token_ids=ids)
    assert {one.sample(row(100), num_output_tokens=0, position=p) for p in range(200)} == set(ids)


def test_min_tokens_masks_end_tokens_until_then() -> None:
    logits = np.array([0, 9, 8, 1], np.float32)
    for fields in ({"temperature": 0}, {"temperature": 0.001}, {"top_p": 0.5}, {"top_k": 1}, {"logit_bias": {1: 100}}):
        one = sampler(end=frozenset({1, 2}), min_tokens=2, **{"temperature": 0.01, **fields})
        assert [one.sample(logits, num_output_tokens=i, position=0) for i in range(3)] == [3, 3, 1]


def test_the_order_is_the_one_asked_for() -> None:
    both = {"temperature": 2.0, "top_k": 5, "repetition_penalty": 1.5}
    assert stages(SamplingParams(**both)) == ["penalties", "temperature", "top_k"]
    order = ["top_k", "penalties", "temperature"]
    assert stages(SamplingParams(**both, samplers=order)) == order
    assert stages(SamplingParams(temperature=0, top_k=5, repetition_penalty=2.0)) == ["penalties", "greedy"]
    logits = np.array([3.0, 2.9, 2.8], np.float32)
    later = sampler(
        prompt=[0], temperature=0, top_k=1, repetition_penalty=2.0, samplers=["top_k", "penalties", "temperature"]
    )
    assert later.sample(logits, num_output_tokens=0, position=0) == 0, "the penalty came too late"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 50, 599])
@pytest.mark.parametrize("fields", [{"temperature": 0}, {}, {"top_k": 5}, {"logit_bias": {1: 2.0}}], ids=str)
def test_logits_that_are_not_numbers_are_an_error(bad: float, place: int, fields: dict[str, Any]) -> None:
    logits = row(600)
    logits[place] = bad
    with pytest.raises(ExecutorError, match="1 of 600 logits"):
        sample(logits, **fields)
    with pytest.raises(ExecutorError, match="1 of 600 logits"):
        ranked_logprobs(logits, 0, 1)


@pytest.mark.parametrize("fields", [{"temperature": 0}, {}, {"top_k": 1}, {"top_p": 0.5}, {"mirostat": 2}], ids=str)
def test_nothing_left_to_choose_is_an_error(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter, match="min_tokens: no token is left to choose"):
        sample(np.zeros(2, np.float32), end=frozenset({0, 1}), min_tokens=1, **fields)


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_extreme_logits_do_not_overflow(cut: dict[str, Any]) -> None:
    assert sample(np.array([3e38, -3e38, 3e38, 0], np.float32), **{**cut, "xtc_probability": 0.0}) in (0, 2)


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
def test_place_threads_and_instruction_set_change_no_bit(fields: dict[str, Any]) -> None:
    """Rows of odd width start at every alignment; vector loops must not treat their ends differently."""
    logits = row(4999)
    table = np.tile(logits, (17, 1))
    one = sampler(prompt=[3, 5], **fields)
    rows: list[Any] = [(one._native, table[r % 17], None, None, 0, r, 3) for r in range(40)]
    expected = choose_rows(rows)
    assert expected == choose_rows(rows, threads=3) == choose_rows(rows, portable=True)
    assert [choose_rows([r])[0] for r in rows] == expected
    assert len({str(r) for r in rank_rows(table, [7] * 17, 3)}) == 1
    assert rank_rows(table, [7] * 17, 3) == rank_rows(table, [7] * 17, 3, portable=True)


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


def test_a_mask_that_is_too_short_forbids_the_rest() -> None:
    one = constrained(OnlyAllow(3, vocab_size=64))
    assert {one.sample(row(100), num_output_tokens=0, position=p) for p in range(50)} == {3}


def test_a_constraint_that_allows_nothing_is_an_error() -> None:
    [found] = sample_rows([Row(constrained(OnlyAllow()), row(100), 0, 0)])
    assert isinstance(found, InvalidParameter)
    assert "forbidden" in str(found)


def test_logits_processors_come_first_and_see_the_tokens_so_far() -> None:
    seen: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def forbid_largest(prompt: Sequence[int], answer: Sequence[int], logits: np.ndarray) -> None:
        seen.append((tuple(prompt), tuple(answer)))
        logits[logits.argmax()] = -np.inf

    def reverse(prompt: Sequence[int], answer: Sequence[int], logits: np.ndarray) -> np.ndarray:
        return logits[::-1].astype(np.float64)

    logits = np.arange(8, dtype=np.float32)
    one = sampler(prompt=[3, 1], temperature=0, logits_processors=[forbid_largest, reverse], logit_bias={5: 5})
    assert one.sample(logits, num_output_tokens=0, position=2) == 5  # of -inf 6 5 4 3 2+5 1 0
    one.accept(5)
    one.sample(logits, num_output_tokens=1, position=3)
    assert seen == [((3, 1), ()), ((3, 1), (5,))]
    assert logits.tolist() == list(range(8)), "the model's row was changed"


def test_logits_processors_that_fail_fail_alone() -> None:
    def raises(prompt: Sequence[int], answer: Sequence[int], logits: np.ndarray) -> None:
        raise RuntimeError("no")

    def short(prompt: Sequence[int], answer: Sequence[int], logits: np.ndarray) -> np.ndarray:
        return logits[1:]

    def nan(prompt: Sequence[int], answer: Sequence[int], logits: np.ndarray) -> None:
        logits[0] = np.nan

    logits = row(20)
    samplers = [sampler(), *(sampler(logits_processors=[p]) for p in (raises, short, nan)), sampler()]
    found = sample_rows([Row(one, logits, 0, 3, num_logprobs=2) for one in samplers])
    for failure, message in zip(found[1:4], ["raises.*raised RuntimeError", "shape", "NaN"], strict=True):
        assert isinstance(failure, InvalidParameter)
        assert re.search(message, str(failure))
    assert found[0] == found[4] == sample_rows([Row(sampler(), logits, 0, 3, num_logprobs=2)])[0]


def test_a_processor_that_does_nothing_changes_no_bit() -> None:
    logits = row(1000)
    for fields in ({}, {"top_p": 0.9, "min_p": 0.01}, {"mirostat": 2}):
        rows = [
            Row(sampler(logits_processors=given, **fields), logits, 0, 3, num_logprobs=5)
            for given in ((), [lambda *_: None])
        ]
        [plainly, processed] = sample_rows(rows)
        assert plainly == processed


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


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"samplers": ["top_k"], "top_p": 0.5}, "top_p"),
        ({"samplers": ["top_k"], "temperature": 0.5}, "temperature"),
        ({"samplers": ["top_k", "top_k"]}, "samplers"),
        ({"samplers": ["topk"]}, "samplers"),
        ({"samplers": "top_k"}, "samplers"),
        ({"mirostat": 2, "top_p": 0.9}, "top_p"),
        ({"mirostat": 1, "xtc_probability": 0.5}, "xtc_probability"),
        ({"mirostat": 2, "temperature": 0}, "mirostat"),
        ({"xtc_probability": 0.5, "temperature": 0}, "xtc_probability"),
        ({"dynatemp_range": 1.1}, "dynatemp_range"),
        ({"repeat_last_n": 0}, "repeat_last_n"),
        ({"allowed_token_ids": []}, "allowed_token_ids"),
        ({"bad_words": [""]}, "bad_words"),
        ({"xtc_threshold": 0.6}, "xtc_threshold"),
        ({"dry_base": 0.5}, "dry_base"),
        ({"mirostat": 3}, "mirostat"),
    ],
    ids=str,
)
def test_impossible_combinations_are_refused_by_name(fields: dict[str, Any], name: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        SamplingParams(**fields)
    assert caught.value.param == name
