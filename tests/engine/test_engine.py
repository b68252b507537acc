"""The engine with a scripted model: what ends an answer, and that one request cannot hurt another."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from support.fake_model import (
    BOS,
    END_OF_TURN,
    EOS,
    VOCAB_SIZE,
    ByteTokenizer,
    FakeProgram,
    continuing,
    hashed,
    one_hot,
)

from pellucid.config import EngineConfig
from pellucid.engine.engine import Engine
from pellucid.engine.request import Request
from pellucid.errors import ContextLengthExceeded, InvalidParameter
from pellucid.sampling import SamplingParams


def make(predict: Any = hashed, *, num_blocks: int = 64, max_model_len: int = 200, **settings: Any) -> Engine:
    config = EngineConfig(model="fake", **settings)
    program = FakeProgram(predict, num_blocks=num_blocks)
    return Engine(program, ByteTokenizer(), config, vocab_size=VOCAB_SIZE, max_model_len=max_model_len)  # type: ignore[arg-type]


def finish(engine: Engine) -> None:
    while engine.has_unfinished:
        engine.step()
        engine.cache.check()
    engine.cache.check(idle=True)


def ask(engine: Engine, prompt: str | list[int], **params: Any) -> Request:
    ids = list(prompt.encode()) if isinstance(prompt, str) else prompt
    [request] = engine.add_request(ids, SamplingParams(**{"temperature": 0, **params}))
    return request


def answer(script: str | list[int], prompt: str, **params: Any) -> Request:
    engine = make(continuing(script))
    request = ask(engine, prompt, **params)
    finish(engine)
    return request


def test_an_answer_ends_with_the_models_own_end_token() -> None:
    r = answer("Hi there", "Hi")
    assert (r.text.text, r.finish_reason, r.stop_reason) == (" there", "stop", None)
    assert r.token_ids[-1] == EOS
    assert r.num_output_tokens == 7


def test_ignore_eos_goes_on() -> None:
    r = answer("Hi there", "Hi", ignore_eos=True, max_tokens=10)
    assert (r.finish_reason, r.num_output_tokens, r.token_ids[-4:]) == ("length", 10, [EOS] * 4)
    shown = answer("Hi there", "Hi", ignore_eos=True, max_tokens=8, skip_special_tokens=False)
    assert shown.text.text == " there</s></s>"


def test_max_tokens() -> None:
    r = answer("Hi there", "Hi", max_tokens=3)
    assert (r.text.text, r.finish_reason, r.num_output_tokens) == (" th", "length", 3)


def test_the_answer_ends_with_the_context() -> None:
    engine = make(max_model_len=32)
    r = ask(engine, [1] * 30, ignore_eos=True)
    finish(engine)
    assert (r.num_tokens, r.finish_reason) == (32, "length")


def test_stop_token_ids() -> None:
    r = answer([*b"Hi the", END_OF_TURN, *b"xx"], "Hi", stop_token_ids=[END_OF_TURN])
    assert (r.text.text, r.finish_reason, r.stop_reason) == (" the", "stop", END_OF_TURN)
    shown = answer(
        [*b"Hi the", END_OF_TURN, *b"xx"], "Hi", stop_token_ids=[END_OF_TURN], include_stop_str_in_output=True,
        skip_special_tokens=False,
    )  # fmt: skip
    assert shown.text.text == " the<end>"


def test_stop_expressions() -> None:
    r = answer("Q: a 1\nQ7: b", "Q:", stop_regex=r"\nQ\d*:", stop="zzz")
    assert (r.text.text, r.finish_reason, r.stop_reason) == (" a 1", "stop", r"\nQ\d*:")
    later = answer("x1x2x3", "x", stop_regex=r"\d", min_tokens=2, include_stop_str_in_output=True)
    assert later.text.text == "1x2"


def test_echo_puts_the_prompt_before_the_answer_and_stops_nowhere_in_it() -> None:
    r = answer("Hi there", "Hi", echo=True, stop=["H", "er"])
    assert (r.text.text, r.stop_reason) == ("Hi th", "er")
    engine = make()
    for fields in ({"n": 2, "best_of": 3, "temperature": 1, "seed": 1}, {"beam_width": 2, "n": 2}):
        params = SamplingParams(echo=True, max_tokens=3, **fields)  # type: ignore[arg-type]
        requests = engine.add_request([BOS, *b"abc"], params)
        finish(engine)
        assert all(r.text.text.startswith("abc") for r in requests)


def test_a_logits_processor_that_fails_ends_its_own_request_only() -> None:
    def at_the_third(prompt: Sequence[int], answer: Sequence[int], logits: np.ndarray) -> None:
        if len(answer) == 2:
            raise KeyError(answer)

    alone = make()
    quiet = ask(alone, "other", max_tokens=8)
    finish(alone)
    engine = make()
    failing = ask(engine, "this", max_tokens=8, logits_processors=[at_the_third])
    other = ask(engine, "other", max_tokens=8)
    finish(engine)
    assert (failing.finish_reason, failing.num_output_tokens) == ("error", 2)
    assert "at_the_third" in (failing.error or "")
    assert "KeyError" in (failing.error or "")
    assert other.token_ids == quiet.token_ids


def test_stop_strings() -> None:
    r = answer("Q: a\nQ: b", "Q:", stop=["\nQ", "zzz"])
    assert (r.text.text, r.finish_reason, r.stop_reason) == (" a", "stop", "\nQ")
    assert bytes(r.token_ids) == b"Q: a\nQ"
    kept = answer("Q: a\nQ: b", "Q:", stop="\nQ", include_stop_str_in_output=True)
    assert kept.text.text == " a\nQ"


def test_a_stop_string_in_the_prompt_or_across_its_end_does_not_count() -> None:
    r = answer("STOPPER", "STOP", stop=["STOP", "OPP"])
    assert (r.text.text, r.finish_reason, r.stop_reason) == ("PER", "stop", None)


def test_held_back_text_is_given_at_the_end() -> None:
    r = answer("Hi <|en", "Hi", stop="<|end|>")
    assert r.text.text == " <|en"


def test_min_tokens_holds_back_every_kind_of_end() -> None:
    r = answer("Hi", "Hi", min_tokens=4, max_tokens=9, stop_token_ids=[END_OF_TURN])
    assert r.num_output_tokens == 5, "four other tokens, then the end"
    assert EOS not in r.token_ids[:-1]
    r = answer("aXXXXXXX", "a", min_tokens=3, stop="X")
    assert (r.text.text, r.num_output_tokens) == ("XX", 3)


def test_an_incomplete_character_at_the_end_becomes_a_replacement_character() -> None:
    r = answer("é🙂", "é", max_tokens=3)
    assert r.text.text == "\ufffd"
    assert answer("é🙂", "é", max_tokens=4).text.text == "🙂"


def test_logprobs_at_every_position() -> None:
    engine = make()
    r = ask(engine, "abc", logprobs=3, prompt_logprobs=2, max_tokens=4, ignore_eos=True)
    finish(engine)
    assert r.prompt_logprobs[0] is None
    assert len(r.prompt_logprobs) == 3
    assert len(r.logprobs) == r.num_output_tokens == 4
    for position, entry in enumerate([*r.prompt_logprobs[1:], *r.logprobs], start=1):
        x = hashed(r.token_ids[:position]).astype(np.float64)
        expected = x - np.log(np.exp(x).sum())
        assert entry is not None
        token = r.token_ids[position]
        assert next(iter(entry)) == token
        for i, logprob in entry.items():
            assert logprob.logprob == pytest.approx(expected[i], abs=1e-5)
            assert logprob.rank == 1 + (x > x[i]).sum()
            assert logprob.decoded_token == ByteTokenizer().token_str(i)
        best = {int(i) for i in np.argsort(-x)[: 2 if position < 3 else 3]}
        assert set(entry) == best | {token}


@pytest.mark.parametrize("seed", [7, None])
def test_n_answers_differ_and_repeat_with_the_reported_seed(seed: int | None) -> None:
    engine = make()
    params = SamplingParams(n=3, seed=seed, max_tokens=10, prompt_logprobs=0, ignore_eos=True)
    first = engine.add_request([1, 2, 3], params)
    finish(engine)
    assert [r.index for r in first] == [0, 1, 2]
    assert len({tuple(r.token_ids) for r in first}) == 3
    assert [len(r.prompt_logprobs) for r in first] == [3, 1, 1], "the prompt's are computed once"
    used = first[0].sampler.seed
    assert seed in (None, used)
    again = engine.add_request([1, 2, 3], SamplingParams(n=3, seed=used, max_tokens=10, ignore_eos=True))
    finish(engine)
    assert [r.token_ids for r in again] == [r.token_ids for r in first]


def test_an_answer_can_be_taken_up_where_it_stopped() -> None:
    """Random numbers belong to absolute positions: prompt and half an answer as a prompt give the other half."""
    engine = make()
    params = {"temperature": 1.0, "seed": 9, "ignore_eos": True}
    whole = ask(engine, "abc", max_tokens=10, **params)
    finish(engine)
    rest = ask(engine, whole.token_ids[:7], max_tokens=6, **params)
    finish(engine)
    assert rest.token_ids == whole.token_ids


def test_the_engines_seed_makes_runs_repeatable_without_making_requests_equal() -> None:
    runs = []
    for seed in (1, 1, 2):
        engine = make(seed=seed)
        requests = [ask(engine, "same", temperature=1, max_tokens=8, ignore_eos=True) for _ in range(2)]
        finish(engine)
        runs.append([r.token_ids for r in requests])
    assert runs[0] == runs[1] != runs[2]
    assert runs[0][0] != runs[0][1]


def test_nan_logits_end_their_request_and_no_other() -> None:
    def poisoned(tokens: list[int]) -> np.ndarray:
        logits = hashed(tokens)
        if tokens[0] == 66 and len(tokens) == 6:
            logits[17] = np.nan
        return logits

    alone = make()
    expected = ask(alone, "A", max_tokens=12, ignore_eos=True)
    finish(alone)
    engine = make(poisoned)
    good = ask(engine, "A", max_tokens=12, ignore_eos=True)
    bad = ask(engine, "BBBB", max_tokens=12, ignore_eos=True)
    finish(engine)
    assert bad.finish_reason == "error"
    assert "1 of 260 logits are NaN" in (bad.error or "")
    assert bad.num_output_tokens == 2
    assert good.token_ids == expected.token_ids
    assert good.finish_reason == "length"


@pytest.mark.parametrize("broken", ["add", "finish"])
def test_a_failure_in_detokenising_ends_that_request_only(broken: str) -> None:
    class Broken:
        def add(self, ids: object) -> str:
            if broken == "add":
                raise RuntimeError("secret detail")
            return ""

        def finish(self) -> str:
            raise RuntimeError("secret detail")

    engine = make()
    bad = ask(engine, "abc", max_tokens=2)
    bad.text._decoder = Broken()
    good = ask(engine, "abc", max_tokens=5)
    finish(engine)
    assert bad.finish_reason == "error"
    assert "RuntimeError" in (bad.error or "")
    assert "secret" not in (bad.error or "")
    assert good.finish_reason in ("length", "stop")


def test_a_failed_step_ends_its_batch_and_nothing_else() -> None:
    engine = make(max_num_seqs=2)
    batch = [ask(engine, "ab", max_tokens=5) for _ in range(2)]
    waiting = ask(engine, "cd", max_tokens=5, ignore_eos=True)
    engine.step()
    engine.program.fail_next = True  # type: ignore[attr-defined]
    assert engine.step() == batch
    assert [r.finish_reason for r in batch] == ["error", "error"]
    assert batch[0].error == "the step failed"
    finish(engine)
    assert waiting.finish_reason == "length"


def test_logits_of_the_wrong_width_are_a_failed_step() -> None:
    engine = make()
    engine.vocab_size = 300
    r = ask(engine, "ab")
    finish(engine)
    assert "expected (1, 300)" in (r.error or "")


def test_an_interrupted_step_is_repeated() -> None:
    engine = make()
    expected = ask(engine, "abc", max_tokens=6, ignore_eos=True)
    finish(engine)
    r = ask(engine, "abc", max_tokens=6, ignore_eos=True)
    engine.step()
    run = engine.program.run

    def interrupted(batch: object) -> None:
        run(batch)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    engine.program.run = interrupted  # type: ignore[method-assign,assignment]
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    engine.program.run = run  # type: ignore[method-assign]
    finish(engine)
    assert r.token_ids == expected.token_ids


def test_abort_frees_at_once_and_others_go_on() -> None:
    engine = make(max_num_seqs=1)
    running, waiting, other = (ask(engine, "ab", max_tokens=5) for _ in range(3))
    engine.step()
    engine.abort([running, waiting])
    assert running.finish_reason == waiting.finish_reason == "abort"
    engine.cache.check(idle=True)
    finish(engine)
    engine.abort([running, other])
    assert other.finish_reason in ("stop", "length")
    assert running.text.text == bytes(running.token_ids[2:]).decode("utf-8", "replace")


@pytest.mark.parametrize("ids", [[-1], [VOCAB_SIZE], [1.0], [True], [None], ["a"], [1, 2, 2**70]])
def test_token_ids_that_the_model_does_not_have(ids: list[Any]) -> None:
    with pytest.raises(InvalidParameter, match="prompt_token_ids"):
        make().add_request(ids, SamplingParams())


@pytest.mark.parametrize(
    ("field", "value"), [("priority", 1.5), ("priority", 2**40), ("tenant", 7), ("tenant", None), ("cache_salt", b"x")]
)
def test_whose_request_it_is_is_checked(field: str, value: Any) -> None:
    with pytest.raises(InvalidParameter, match=f"{field}: expected"):
        make().add_request([1], SamplingParams(), **{field: value})


def test_an_empty_prompt() -> None:
    with pytest.raises(InvalidParameter, match="no tokens"):
        make().add_request([], SamplingParams())


@pytest.mark.parametrize(("field", "value"), [("logit_bias", {VOCAB_SIZE: 1}), ("stop_token_ids", [VOCAB_SIZE])])
def test_ids_in_parameters_are_checked_against_the_logits(field: str, value: Any) -> None:
    with pytest.raises(InvalidParameter, match=rf"{field}: .*to {VOCAB_SIZE - 1}"):
        make().add_request([1], SamplingParams(**{field: value}))


def test_the_context_is_exact_and_both_numbers_are_named() -> None:
    engine = make(max_model_len=20)
    engine.add_request([1] * 19, SamplingParams())
    engine.add_request([1] * 12, SamplingParams(max_tokens=8))
    with pytest.raises(ContextLengthExceeded, match=r"prompt has 20 tokens.*holds 20"):
        engine.add_request([1] * 20, SamplingParams())
    with pytest.raises(ContextLengthExceeded, match=r"12 tokens.*max_tokens = 9.*21.*holds 20"):
        engine.add_request([1] * 12, SamplingParams(max_tokens=9))
    with pytest.raises(ContextLengthExceeded, match="10000001"):
        engine.add_request(range(10**7), SamplingParams())
    finish(engine)


def test_what_can_never_fit_the_cache_is_refused_with_both_numbers() -> None:
    engine = make(num_blocks=2, max_model_len=200)
    with pytest.raises(ContextLengthExceeded, match=r"30 tokens.*max_tokens = 3.*33.*KV cache holds 32.*kv_cache_mem"):
        engine.add_request([1] * 30, SamplingParams(max_tokens=3))
    r = ask(engine, [1] * 30, ignore_eos=True)
    finish(engine)
    assert (r.num_tokens, r.finish_reason) == (32, "length")


def test_control_tokens_do_not_show_in_text() -> None:
    assert answer([*b"Hi ", END_OF_TURN, *b"x"], "Hi ", max_tokens=2).text.text == "x"


def test_many_prompts_with_logprobs_stay_within_the_logit_budget() -> None:
    engine = make(lambda tokens: one_hot(65))
    engine.scheduler.max_logit_rows = 16
    requests = [ask(engine, [1] * 40, prompt_logprobs=0, max_tokens=1) for _ in range(3)]
    finish(engine)
    assert max(len(b.logit_rows) for b in engine.program.batches) <= 16 + 3  # type: ignore[attr-defined]
    assert [len(r.prompt_logprobs) for r in requests] == [40, 40, 40]


def test_padding_ids_beyond_the_vocabulary_have_no_text() -> None:
    engine = make(continuing([*b"ab", 259, *b"c"]))
    engine.tokenizer.vocab_size = 259  # the logits stay 260 wide
    r = ask(engine, "ab", logprobs=0, stop=["bc", "c"])
    finish(engine)
    assert (r.text.text, r.finish_reason, r.stop_reason) == ("", "stop", "c")
    assert [next(iter(entry.values())).decoded_token for entry in r.logprobs] == ["", "c"]


def test_a_repeated_prompt_is_found_in_the_cache_and_changes_nothing() -> None:
    engine = make()
    answers = [ask(engine, [7] * 40, max_tokens=6, ignore_eos=True, logprobs=1)]
    finish(engine)
    answers.append(ask(engine, [7] * 40, max_tokens=6, ignore_eos=True, logprobs=1))
    finish(engine)
    assert [r.num_cached_tokens for r in answers] == [0, 32]
    assert (answers[0].token_ids, answers[0].logprobs) == (answers[1].token_ids, answers[1].logprobs)


def test_answers_to_one_prompt_share_its_blocks() -> None:
    engine = make()
    requests = engine.add_request([3] * 37, SamplingParams(n=3, seed=1, max_tokens=20, ignore_eos=True))
    finish(engine)
    assert [r.num_cached_tokens for r in requests] == [0, 36, 36]
    assert len(engine.program.copies) == 2  # type: ignore[attr-defined]
    lonely = make(enable_prefix_caching=False, max_num_seqs=1)
    again = lonely.add_request([3] * 37, SamplingParams(n=3, seed=1, max_tokens=20, ignore_eos=True))
    finish(lonely)
    assert [r.token_ids for r in again] == [r.token_ids for r in requests]


@pytest.mark.parametrize("right", ["all", "none", "some"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_drafts_change_no_answer(right: str, temperature: float) -> None:
    params = {"max_tokens": 30, "ignore_eos": True, "temperature": temperature, "seed": 5, "logprobs": 1}
    plain = make()
    expected = ask(plain, "abc", **params)
    finish(plain)

    class Scripted:
        def propose(self, request: Request) -> list[int]:
            true = expected.token_ids[request.num_tokens :][:4]
            wrong = {"all": 4, "none": 0, "some": request.num_tokens % 4}[right]
            return true[:wrong] + [(t + 1) % VOCAB_SIZE for t in true[wrong:]]

    engine = make()
    engine._drafter = Scripted()
    found = ask(engine, "abc", **params)
    finish(engine)
    assert (found.token_ids, found.logprobs) == (expected.token_ids, expected.logprobs)
    steps, without = len(engine.program.batches), len(plain.program.batches)  # type: ignore[attr-defined]
    assert steps < without / 3 if right == "all" else steps <= without


def test_a_tenant_with_many_requests_does_not_starve_another() -> None:
    engine = make(max_num_seqs=2)
    many = [ask(engine, [i] * 5, max_tokens=4, ignore_eos=True) for i in range(40)]
    engine.step()
    [one] = engine.add_request([99] * 5, SamplingParams(max_tokens=4, ignore_eos=True), tenant="other")
    for _ in range(12):
        engine.step()
    assert one.finish_reason == "length"
    assert sum(r.finish_reason is None for r in many) > 30
    engine.abort([*many, one])
    engine.cache.check(idle=True)


def test_what_is_counted_for_metrics() -> None:
    engine = make(max_num_seqs=2, num_blocks=8)
    first = engine.add_request([5] * 33, SamplingParams(n=2, max_tokens=3, ignore_eos=True))
    ask(engine, "other", max_tokens=4, ignore_eos=True)
    engine.step()
    engine.step()
    now = engine.stats()
    assert (now.num_running, now.num_waiting, now.steps_total) == (2, 1, 2)
    assert (now.blocks_free, now.blocks_used, now.blocks_cached) == (4, 4, 0)
    assert now.kv_cache_usage == 0.5
    assert (now.prompt_tokens_total, now.generation_tokens_total) == (33 + 5, 2 + 2)
    finish(engine)
    ask(engine, [5] * 33, max_tokens=1)
    finish(engine)
    done = engine.stats()
    assert (done.num_running, done.num_waiting, done.blocks_used, done.kv_cache_usage) == (0, 0, 0, 0.0)
    assert (done.prompt_tokens_total, done.generation_tokens_total) == (33 + 5 + 33, 3 + 3 + 4 + 1)
    assert (done.prefix_cache_queries_total, done.prefix_cache_hits_total) == (33 + 5 + 33 + 33, 32 + 32)
    assert done.preemptions_total == done.drafted_tokens_total == done.accepted_tokens_total == 0
    assert [r.num_output_tokens for r in first] == [3, 3]
