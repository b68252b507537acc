"""The Python API on a tiny model file: prompts in, results out, and what is refused."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny_model import write_tiny_model

import pellucid
from pellucid import LLM, Logprob, RequestOutput, SamplingParams
from pellucid.errors import (
    ContextLengthExceeded,
    ExecutorError,
    InvalidParameter,
    InvalidRequest,
    ModelNotFound,
    ResourceError,
    TemplateError,
    UnsupportedParameter,
)

GREEDY = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="module")
def llm(path: Path) -> Iterator[LLM]:
    with LLM(str(path), threads=1, kv_cache_memory="4MiB") as llm:
        yield llm


def test_one_text_is_one_prompt(llm: LLM) -> None:
    [result] = llm.generate("Hello", GREEDY)
    assert isinstance(result, RequestOutput)
    assert result.prompt == "Hello"
    assert result.prompt_token_ids == llm.tokenize("Hello")
    assert len(result.token_ids) == 6
    assert result.finish_reason == "length"
    assert result.logprobs is None
    assert result.prompt_logprobs is None
    assert result.text == llm.detokenize(result.token_ids, skip_special_tokens=True)
    assert result.outputs[0].text == result.text


def test_results_come_in_the_order_of_the_prompts(llm: LLM) -> None:
    prompts: list[Any] = ["a", [5, 6, 7], "some longer text than the others", (9,), np.array([5, 6, 7])]
    results = llm.generate(prompts, GREEDY)
    alone = [llm.generate([p], GREEDY)[0] for p in prompts]
    assert [r.token_ids for r in results] == [r.token_ids for r in alone]
    assert [r.prompt for r in results] == ["a", None, prompts[2], None, None]
    assert results[1].token_ids == results[4].token_ids
    assert llm.generate([5, 6, 7], GREEDY)[0].token_ids == results[1].token_ids, "a list of ids is one prompt"
    assert llm.generate([], GREEDY) == []


def test_each_prompt_can_have_its_own_parameters(llm: LLM) -> None:
    params = [SamplingParams(max_tokens=n, n=n, seed=1, ignore_eos=True) for n in (1, 3)]
    results = llm.generate(["a", "b"], params)
    assert [[len(o.token_ids) for o in r.outputs] for r in results] == [[1], [3, 3, 3]]
    assert [o.index for o in results[1].outputs] == [0, 1, 2]
    assert results[1].usage.completion_tokens == 9
    assert results[1].usage.prompt_tokens == 1
    with pytest.raises(InvalidParameter, match="got 1 for 2 prompts"):
        llm.generate(["a", "b"], params[:1])
    with pytest.raises(InvalidParameter, match="expected SamplingParams"):
        llm.generate("a", {"n": 1})  # type: ignore[arg-type]
    with pytest.raises(InvalidParameter, match="expected SamplingParams"):
        llm.generate(["a"], [{"n": 1}])  # type: ignore[list-item]


def test_logprobs(llm: LLM) -> None:
    [r] = llm.generate("Hello", SamplingParams(temperature=0, max_tokens=3, logprobs=2, prompt_logprobs=0))
    assert r.prompt_logprobs is not None
    assert r.prompt_logprobs[0] is None
    assert [list(entry or {}) for entry in r.prompt_logprobs[1:]] == [[t] for t in r.prompt_token_ids[1:]]
    assert r.logprobs is not None
    for token, entry in zip(r.token_ids, r.logprobs, strict=True):
        assert next(iter(entry)) == token
        assert len(entry) == 2
        assert isinstance(entry[token], Logprob)
        assert entry[token].rank == 1
        assert entry[token].decoded_token == llm.tokenizer.token_str(token)


def test_the_receipt_is_enough_to_repeat_the_answer(llm: LLM, path: Path) -> None:
    params = SamplingParams(max_tokens=8, temperature=2.0, ignore_eos=True)
    [first] = llm.generate("Hello", params)
    receipt = first.receipt
    assert (receipt.version, receipt.prompt, receipt.model) == (pellucid.__version__, "Hello", str(path))
    assert (receipt.architecture, receipt.quantization, receipt.executor, receipt.threads) == ("llama", "F32", "cpu", 1)
    assert (receipt.max_model_len, receipt.cached_tokens, receipt.activations) == (256, 0, "int16")
    assert receipt.seed == receipt.sampling_params["seed"]
    assert receipt.sampling_params["temperature"] == 2.0
    [again] = llm.generate(receipt.prompt, SamplingParams(**receipt.sampling_params))  # type: ignore[arg-type]
    assert again.token_ids == first.token_ids
    assert llm.generate("Hello", params)[0].receipt.seed != receipt.seed


def test_metrics(llm: LLM) -> None:
    m = llm.generate("Hello", GREEDY)[0].metrics
    assert m.time_to_first_token is not None
    assert 0 <= m.queue_time <= m.time_to_first_token <= m.total_time
    assert m.prefill_tokens_per_second is not None
    assert m.prefill_tokens_per_second > 0
    assert m.decode_tokens_per_second == pytest.approx(5 / (m.total_time - m.time_to_first_token))
    one = llm.generate("Hello", SamplingParams(max_tokens=1))[0].metrics
    assert one.decode_tokens_per_second is None


@pytest.mark.parametrize("n", [1, 3])
def test_a_stream_is_the_answer_in_pieces(llm: LLM, n: int) -> None:
    params = SamplingParams(seed=3, n=n, max_tokens=20, temperature=3, ignore_eos=True, logprobs=1, stop="zz")
    [expected] = llm.generate("Hello", params)
    chunks = list(llm.stream("Hello", params))
    for output in expected.outputs:
        own = [c for c in chunks if c.index == output.index]
        assert "".join(c.text for c in own) == output.text
        assert [t for c in own for t in c.token_ids] == output.token_ids
        assert [e for c in own for e in c.logprobs] == output.logprobs
        assert [c.finish_reason for c in own] == [None] * (len(own) - 1) + [output.finish_reason]
    assert [c.result is None for c in chunks] == [True] * (len(chunks) - 1) + [False]
    assert chunks[-1].result is not None
    assert chunks[-1].result.outputs == expected.outputs


def test_leaving_a_stream_ends_its_request(llm: LLM) -> None:
    stream = llm.stream("Hello", SamplingParams(max_tokens=100, ignore_eos=True))
    next(stream)
    assert llm._engine.has_unfinished
    stream.close()  # type: ignore[attr-defined]
    assert not llm._engine.has_unfinished
    llm._engine.cache.check(idle=True)


def test_a_stream_nobody_reads_leaves_nothing_behind(llm: LLM) -> None:
    for chat in (False, True):
        dropped = llm.stream_chat(HELLO, GREEDY) if chat else llm.stream("Hello", GREEDY)
        del dropped
        closed = llm.stream_chat(HELLO, GREEDY) if chat else llm.stream("Hello", GREEDY)
        closed.close()  # type: ignore[attr-defined]
        assert list(closed) == []
        assert not llm._engine.has_unfinished
    llm._engine.cache.check(idle=True)


def test_streams_and_batches_can_be_interleaved(llm: LLM) -> None:
    params = SamplingParams(seed=1, max_tokens=12, temperature=2, ignore_eos=True)
    expected = [r.text for r in llm.generate(["one", "two", "three"], params)]
    first, second = llm.stream("one", params), llm.stream("two", params)
    texts = ["", ""]
    for _ in range(3):
        texts[0] += next(first).text
        texts[1] += next(second).text
    assert llm.generate("three", params)[0].text == expected[2]
    texts[1] += "".join(c.text for c in second)
    texts[0] += "".join(c.text for c in first)
    assert texts == expected[:2]


def test_threads_share_an_llm(llm: LLM) -> None:
    params = SamplingParams(seed=1, max_tokens=12, temperature=2, ignore_eos=True)
    prompts = [f"prompt {i}" for i in range(8)]
    expected = [r.text for r in llm.generate(prompts, params)]
    found = [""] * 8

    def work(i: int) -> None:
        found[i] = llm.generate(prompts[i], params)[0].text

    workers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert found == expected


def test_chat(llm: LLM) -> None:
    [result] = llm.chat(HELLO, GREEDY)
    assert result.prompt == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert result.prompt_token_ids == llm.tokenize(result.prompt, parse_special=True)
    two = llm.chat([HELLO, [{"role": "user", "content": "Bye"}]], GREEDY)
    assert two[0].token_ids == result.token_ids
    assert two[1].prompt == "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"
    assert "".join(c.text for c in llm.stream_chat(HELLO, GREEDY)) == result.text
    assert (llm.chat(HELLO, GREEDY, add_generation_prompt=False)[0].prompt or "").endswith("<|im_end|>\n")


def test_what_a_user_writes_is_never_a_control_token(llm: LLM) -> None:
    [result] = llm.chat([{"role": "user", "content": "<|im_end|>"}], GREEDY)
    end = llm.tokenize("<|im_end|>", parse_special=True)
    assert len(end) == 1
    assert result.prompt_token_ids.count(end[0]) == 1
    assert end[0] not in llm.generate("a<|im_end|>", GREEDY)[0].prompt_token_ids


@pytest.mark.parametrize("messages", [[], "hi", [1], [[1]], None, [{"role": "user"}], [[]]])
def test_messages_that_are_none(llm: LLM, messages: Any) -> None:
    with pytest.raises(InvalidParameter, match="messages"):
        llm.chat(messages, GREEDY)


@pytest.mark.parametrize("variables", [{"messages": 1}, {"tokenizer": 1}, {"self": 1}, {1: 2}])
def test_template_variables_that_cannot_be(llm: LLM, variables: Any) -> None:
    with pytest.raises(InvalidParameter, match="chat_template_kwargs"):
        llm.chat(HELLO, GREEDY, chat_template_kwargs=variables)


@pytest.mark.parametrize("prompt", [5, None, {"a": 1}, b"x", [5.5], [None], ["a", 5], [b"x"]], ids=repr)
def test_prompts_that_are_none(llm: LLM, prompt: Any) -> None:
    with pytest.raises(InvalidParameter, match="prompt"):
        llm.generate(prompt, GREEDY)


@pytest.mark.parametrize("prompt", ["", [[]]], ids=repr)
def test_an_empty_prompt_is_refused_by_a_model_without_bos(llm: LLM, prompt: Any) -> None:
    with pytest.raises(InvalidParameter, match="no tokens"):
        llm.generate(prompt, GREEDY)


def test_one_bad_request_starts_none_of_its_call(llm: LLM) -> None:
    with pytest.raises(ContextLengthExceeded, match=r"300 tokens.*holds 256"):
        llm.generate(["fine", [1] * 300], GREEDY)
    with pytest.raises(ContextLengthExceeded):
        llm.stream([1] * 256)  # at the call, not at the first chunk
    assert not llm._engine.has_unfinished
    llm._engine.cache.check(idle=True)


def test_the_answer_fills_the_context_when_nothing_else_ends_it(llm: LLM) -> None:
    [result] = llm.generate([1] * 250, SamplingParams(temperature=0, ignore_eos=True))
    assert (len(result.token_ids), result.finish_reason) == (6, "length")


def test_round_trip_of_text(llm: LLM) -> None:
    for text in ("Hello", " é🙂\n", "abab", "<|im_start|>"):
        assert llm.detokenize(llm.tokenize(text)) == text
    assert llm.detokenize(llm.tokenize("<|im_start|>", parse_special=True), skip_special_tokens=True) == ""


def test_closing(path: Path) -> None:
    with LLM(str(path), threads=1) as llm:
        stream = llm.stream("Hello", SamplingParams(max_tokens=50, ignore_eos=True))
        next(stream)
    rest = list(stream)
    assert rest[-1].finish_reason == "abort"
    with pytest.raises(InvalidRequest, match="closed"):
        llm.generate("x")
    llm.close()


def test_a_program_that_fails_ends_the_request_with_an_error(path: Path) -> None:
    llm = LLM(str(path), threads=1)
    llm._model.program.close()
    [result] = llm.generate("Hello", GREEDY)
    assert result.finish_reason == "error"
    assert "closed" in (result.outputs[0].error or "")
    assert result.metrics.time_to_first_token is None
    llm.close()


def test_two_models_in_one_process(path: Path, llm: LLM) -> None:
    with LLM(path, threads=2, max_model_len=64) as other:  # type: ignore[arg-type]  # a Path will do
        assert other.max_model_len == 64
        assert other.generate("Hello", GREEDY)[0].token_ids == llm.generate("Hello", GREEDY)[0].token_ids


def test_the_reference_executor_answers_the_same(path: Path, llm: LLM) -> None:
    with LLM(str(path), executor="reference") as other:
        assert other.generate("Hello", GREEDY)[0].token_ids == llm.generate("Hello", GREEDY)[0].token_ids


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"max_model_len": 257}, InvalidParameter, "257.*256"),
        ({"kv_cache_memory": 5}, ResourceError, "kv_cache_memory"),
        ({"isa": "mmx"}, ExecutorError, "mmx"),
        ({"executor": "tpu"}, ExecutorError, "tpu"),
        ({"kv_cache_dtype": "int3"}, ExecutorError, "int3"),
        ({"activations": "int4"}, ExecutorError, "int4"),
        ({"chat_template": "no such file"}, InvalidParameter, "no such file"),
        ({"chat_template": "{% for"}, TemplateError, "not valid"),
        ({"tensor_parallel_size": 2}, UnsupportedParameter, "tensor_parallel_size"),
        ({"max_model_length": 2}, InvalidParameter, "did you mean 'max_model_len'"),
    ],
)
def test_settings_that_cannot_be(path: Path, settings: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        LLM(str(path), **settings)


def test_no_such_model(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        LLM(str(tmp_path / "none.gguf"))


def test_a_chat_template_of_ones_own(tmp_path: Path, path: Path) -> None:
    base = write_tiny_model(tmp_path / "base.gguf", template=None)
    with LLM(str(base), threads=1) as llm, pytest.raises(InvalidRequest, match="no chat template"):
        llm.chat(HELLO, GREEDY)
    file = tmp_path / "template.jinja"
    file.write_text("{% for m in messages %}[{{ m.content }}]{% endfor %}")
    for given in (file, str(file), file.read_text()):
        with LLM(str(path), threads=1, chat_template=given) as llm:
            assert llm.chat(HELLO, GREEDY)[0].prompt == "[Hello]"


def test_real_model(smollm2_path: Path) -> None:
    with LLM(str(smollm2_path), max_model_len=256) as llm:
        results = llm.generate(["The capital of France is", "The capital of Italy is"], GREEDY)
        assert [r.text.split()[0].strip(".,") for r in results] == ["Paris", "Rome"]
        [answer] = llm.chat([{"role": "user", "content": "What is 2+2?"}], SamplingParams(temperature=0, max_tokens=30))
        assert "4" in answer.text
        assert answer.finish_reason == "stop"
