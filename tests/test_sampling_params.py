"""SamplingParams and EngineConfig refuse what they cannot honour, by name."""

import copy
import math
import pickle
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from pellucid.config import EngineConfig, parse_memory
from pellucid.errors import InvalidParameter, UnsupportedParameter
from pellucid.sampling import PLANNED, SamplingParams

NOT_A_NUMBER = [math.nan, math.inf, -math.inf, True, False, "1", None, [1], 10**400, -(10**5000), 1j]
REAL_FIELDS = [
    "temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "typical_p",
    "top_n_sigma", "xtc_probability", "xtc_threshold", "dynatemp_range", "dynatemp_exponent", "mirostat_tau",
    "mirostat_eta", "dry_multiplier", "dry_base",
]  # fmt: skip
INTEGER_FIELDS = [
    "top_k", "seed", "n", "min_tokens", "max_tokens", "logprobs", "prompt_logprobs", "mirostat", "repeat_last_n",
    "dry_allowed_length", "no_repeat_ngram_size",
]  # fmt: skip
NONE_ALLOWED = {"seed", "max_tokens", "logprobs", "prompt_logprobs"}


@pytest.mark.parametrize("field", REAL_FIELDS + INTEGER_FIELDS)
@pytest.mark.parametrize(
    "value", NOT_A_NUMBER, ids=lambda v: repr(v)[:20] if not isinstance(v, int) else type(v).__name__
)
def test_no_field_takes_what_is_not_a_finite_number(field: str, value: object) -> None:
    if value is None and field in NONE_ALLOWED:
        return
    with pytest.raises(InvalidParameter) as caught:
        SamplingParams(**{field: value})
    assert caught.value.param == field
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("field", "low", "high"),
    [
        ("top_k", -1, 2**31 - 1),
        ("seed", 0, 2**64 - 1),
        ("n", 1, 128),
        ("max_tokens", 1, 2**31 - 1),
        ("min_tokens", 0, 2**31 - 1),
        ("logprobs", 0, 100),
        ("prompt_logprobs", 0, 100),
    ],
)
def test_integer_ranges_are_exact(field: str, low: int, high: int) -> None:
    for value in (low, high, np.int64(low)):
        SamplingParams(**{field: value})
    for value in (low - 1, high + 1, float(low), Fraction(3, 2)):
        with pytest.raises(InvalidParameter, match=field):
            SamplingParams(**{field: value})


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("temperature", [0, 0.0, 0.001, 1, 100, np.float32(0.5)], [-0.1, 1e-9, 0.0009, 100.1, 999999, -1]),
        ("top_p", [1e-9, 1], [0, -1, 1.01]),
        ("min_p", [0, 1], [-0.01, 1.01]),
        ("repetition_penalty", [0.01, 100], [0, 0.009, -1, 101]),
        ("presence_penalty", [-2, 2], [-2.1, 2.1]),
        ("frequency_penalty", [-2, 2], [-2.1, 2.1]),
    ],
)
def test_real_ranges_are_exact(field: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        stored = getattr(SamplingParams(**{field: value}), field)
        assert stored == value
        assert type(stored) is float
    for value in bad:
        with pytest.raises(InvalidParameter, match=field):
            SamplingParams(**{field: value})


@pytest.mark.parametrize(
    "stop",
    ["", [""], ["a", ""], "x" * 1025, ["x"] * 65, "\ud83d", [b"x"], 5, {"a": 1}, [None]],
    ids=["empty", "empty in list", "one empty", "long", "many", "half an emoji", "bytes", "number", "dict", "None"],
)
def test_stop_strings_that_cannot_work_are_refused(stop: Any) -> None:
    with pytest.raises(InvalidParameter, match="stop"):
        SamplingParams(stop=stop)


def test_logits_processors_are_functions_and_shown_by_name() -> None:
    def mine(*_: object) -> None: ...

    params = SamplingParams(logits_processors=[mine, len])
    assert params.logits_processors == (mine, len)
    names = params.as_dict()["logits_processors"]
    assert names == (mine.__qualname__, "len")
    for bad in ("mine", ["mine"], 5, [None], [mine] * 65, names):
        with pytest.raises(InvalidParameter, match=r"^logits_processors: expected"):
            SamplingParams(logits_processors=bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"best_of": 2, "temperature": 0}, "best_of"),
        ({"beam_width": 2, "n": 3}, "n"),
        ({"beam_width": 2, "best_of": 2}, "best_of"),
        ({"beam_width": 65}, "beam_width"),
        ({"beam_width": 2, "temperature": 0.5}, "temperature"),
        ({"beam_width": 2, "top_p": 0.9}, "top_p"),
        ({"beam_width": 2, "stop": "x"}, "stop"),
        ({"beam_width": 2, "stop_regex": "x"}, "stop_regex"),
        ({"beam_width": 2, "logit_bias": {1: 1}}, "logit_bias"),
        ({"beam_width": 2, "min_tokens": 1}, "min_tokens"),
        ({"beam_width": 2, "prompt_logprobs": 1}, "prompt_logprobs"),
        ({"beam_width": 2, "logits_processors": [len]}, "logits_processors"),
        ({"beam_width": 2, "structured_outputs": {"choice": ["a"]}}, "structured_outputs"),
        ({"length_penalty": 2}, "length_penalty"),
        ({"best_of": True}, "best_of"),
        ({"echo": 1}, "echo"),
    ],
)
def test_what_contests_cannot_have_is_refused_by_name(fields: dict[str, Any], name: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        SamplingParams(**fields)
    assert caught.value.param == name


def test_contests_are_known_as_such() -> None:
    assert not SamplingParams(n=2, best_of=2).is_contest
    assert not SamplingParams(best_of=1, temperature=0).is_contest
    assert SamplingParams(n=2, best_of=3).is_contest
    assert SamplingParams(beam_width=1, temperature=0, seed=3, max_tokens=5, logprobs=1).is_contest


def test_stop_expressions_are_compiled_at_once() -> None:
    assert SamplingParams(stop_regex="a+").stop_regex == ("a+",)
    for bad in ("(", "a*", ["ok", r"\b"], "x" * 1025, ["a"] * 9, 5):
        with pytest.raises(InvalidParameter, match=r"^stop_regex: "):
            SamplingParams(stop_regex=bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("bias", [[1], {-1: 1}, {True: 1}, {"5": 1}, {5: 101}, {5: math.nan}, {5: True}, {2**31: 0}])
def test_logit_bias_is_checked(bias: Any) -> None:
    with pytest.raises(InvalidParameter, match="logit_bias"):
        SamplingParams(logit_bias=bias)


def test_large_fields_are_refused_before_they_cost_anything() -> None:
    with pytest.raises(InvalidParameter, match="65536"):
        SamplingParams(logit_bias=dict.fromkeys(range(65_537), 0))
    with pytest.raises(InvalidParameter, match="1024"):
        SamplingParams(stop_token_ids=range(10**9))


@pytest.mark.parametrize("ids", ["12", [1.0], [-1], [True], 5])
def test_stop_token_ids_are_checked(ids: Any) -> None:
    with pytest.raises(InvalidParameter, match="stop_token_ids"):
        SamplingParams(stop_token_ids=ids)


@pytest.mark.parametrize("field", ["ignore_eos", "skip_special_tokens", "include_stop_str_in_output"])
def test_switches_are_booleans(field: str) -> None:
    for value in (0, 1, "true", None):
        with pytest.raises(InvalidParameter, match=field):
            SamplingParams(**{field: value})


def test_min_tokens_cannot_exceed_max_tokens() -> None:
    SamplingParams(min_tokens=3, max_tokens=3)
    with pytest.raises(InvalidParameter, match=r"min_tokens.*from 0 to 2"):
        SamplingParams(min_tokens=3, max_tokens=2)


@pytest.mark.parametrize("field", sorted(PLANNED))
def test_fields_that_are_not_built_yet_are_refused_by_name(field: str) -> None:
    with pytest.raises(UnsupportedParameter, match=rf"{field}: .*not supported yet"):
        SamplingParams(**{field: 1})


def test_a_misspelt_field_gets_a_suggestion() -> None:
    with pytest.raises(InvalidParameter, match=r"topp: .*did you mean 'top_p'"):
        SamplingParams(topp=0.9)
    with pytest.raises(InvalidParameter, match=r"x{77}…: there is no"):
        SamplingParams(**{"x" * 100_000: 1})
    with pytest.raises(TypeError):
        SamplingParams(0.5)  # type: ignore[misc]


def test_values_are_stored_plainly_and_copies_are_equal() -> None:
    params = SamplingParams(stop="x", top_k=-1, logit_bias={np.int64(3): 1}, stop_token_ids=[np.int32(4)])
    assert params.stop == ("x",)
    assert params.top_k == 0
    assert params.logit_bias == {3: 1.0}
    assert params.stop_token_ids == (4,)
    assert pickle.loads(pickle.dumps(params)) == copy.deepcopy(params) == params
    assert replace(params, n=2).n == 2
    assert params.as_dict()["top_k"] == 0
    with pytest.raises(AttributeError):
        params.n = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("2GiB", 2 << 30), ("512 MB", 512_000_000), ("1.5g", 1_500_000_000), ("64KiB", 65536), (7, 7), ("12", 12)],
)
def test_memory_sizes(text: Any, nbytes: int) -> None:
    assert parse_memory("kv_cache_memory", text) == nbytes


@pytest.mark.parametrize("text", ["", "x", "-1GB", "1e9", "1GiBB", 0, -5, 1.5, True, "9" * 30, "1" * 15 + "T", None])
def test_sizes_that_are_not_sizes(text: Any) -> None:
    with pytest.raises(InvalidParameter, match="kv_cache_memory"):
        parse_memory("kv_cache_memory", text)


@pytest.mark.parametrize(
    "setting",
    [
        {"max_model_len": 0}, {"max_model_len": True}, {"threads": -1}, {"threads": 10**9}, {"isa": 5},
        {"max_num_seqs": 0}, {"max_num_batched_tokens": 2**40}, {"prefill_chunk": 0}, {"seed": 2**64}, {"seed": -1},
        {"kv_cache_memory": "lots"}, {"kv_cache_dtype": 8}, {"activations": 8}, {"chat_template": 3},
        {"model": None}, {"executor": None},
    ],
    ids=str,
)  # fmt: skip
def test_engine_settings_are_checked(setting: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter, match=next(iter(setting))):
        EngineConfig(**{"model": "m", **setting})


def test_unknown_engine_settings_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedParameter, match="tensor_parallel_size"):
        EngineConfig(model="m", tensor_parallel_size=2)  # type: ignore[call-arg]
    with pytest.raises(InvalidParameter, match="did you mean 'threads'"):
        EngineConfig(model="m", thread=2)  # type: ignore[call-arg]
