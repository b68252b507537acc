"""The sampling flags: every sampler has one, the familiar names work, and bad combinations are refused by name."""

from __future__ import annotations

import shlex

import pytest

from pellucid.cli.main import parse
from pellucid.cli.sampling_options import FLAGS, MANY_ANSWERS, sampling_params
from pellucid.errors import InvalidParameter
from pellucid.sampling import SamplingParams

# Fields without a flag: ids and objects that a program writes, and how text is made of tokens.
WITHOUT_A_FLAG = {
    "allowed_token_ids", "stop_token_ids", "skip_special_tokens", "include_stop_str_in_output", "visible_token_ids",
    "structured_outputs", "logits_processors",
}  # fmt: skip


def params(flags: str, command: str = "run") -> SamplingParams:
    return sampling_params(parse([command, "model", *shlex.split(flags)]))


def test_every_parameter_has_a_flag() -> None:
    named = [flag.parameter for flag in (*FLAGS, *MANY_ANSWERS)]
    assert len(named) == len(set(named))
    assert set(named) == set(SamplingParams().as_dict()) - WITHOUT_A_FLAG


def test_without_flags() -> None:
    assert params("") == SamplingParams(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05)
    assert params("-n -1 -s -1", "chat") == params("")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--typical-p 0.9 --top-n-sigma 1", {"typical_p": 0.9, "top_n_sigma": 1}),
        ("--typical 0.9 --top-nsigma 1", {"typical_p": 0.9, "top_n_sigma": 1}),
        ("--xtc-probability 0.5 --xtc-threshold 0.2", {"xtc_probability": 0.5, "xtc_threshold": 0.2}),
        ("--dynatemp-range 0.3 --dynatemp-exp 2", {"dynatemp_range": 0.3, "dynatemp_exponent": 2}),
        (
            "--dry-multiplier 0.8 --dry-allowed-length 3 --dry-sequence-breaker a --dry-sequence-breaker b",
            {"dry_multiplier": 0.8, "dry_allowed_length": 3, "dry_sequence_breakers": ("a", "b")},
        ),
        (
            "--repeat-penalty 1.1 --presence-penalty -0.5 --frequency-penalty 0.5 --repeat-last-n 64",
            {"repetition_penalty": 1.1, "presence_penalty": -0.5, "frequency_penalty": 0.5, "repeat_last_n": 64},
        ),
        ("-l 5=-1.5 --logit-bias 7=2", {"logit_bias": {5: -1.5, 7: 2}}),
        ("-r one --stop two --bad-word three", {"stop": ("one", "two"), "bad_words": ("three",)}),
        ("--ignore-eos --min-tokens 2 --no-repeat-ngram-size 3",
         {"ignore_eos": True, "min_tokens": 2, "no_repeat_ngram_size": 3}),
        ("--n 3 --logprobs 5 --prompt-logprobs 0", {"n": 3, "logprobs": 5, "prompt_logprobs": 0}),
    ],
)  # fmt: skip
def test_flags_mean_parameters(flags: str, expected: dict[str, object]) -> None:
    assert params(flags) == SamplingParams(**{"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05} | expected)


def test_what_replaces_the_usual_samplers_does_so() -> None:
    assert params("--mirostat 2 --mirostat-ent 4 --mirostat-lr 0.2") == SamplingParams(
        temperature=0.8, mirostat=2, mirostat_tau=4, mirostat_eta=0.2
    )
    assert params("--beam-width 4 --length-penalty 2 --n 3") == SamplingParams(beam_width=4, length_penalty=2, n=3)
    assert params("--samplers 'top_k;temperature'") == SamplingParams(
        samplers=("top_k", "temperature"), top_k=40, temperature=0.8
    )


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--mirostat 1 --top-p 0.9", "top_p"),
        ("--samplers top_k --min-p 0.1", "min_p"),
        ("--samplers top_k,topp", "topp"),
        ("--temp 0 --xtc-probability 1", "xtc_probability"),
        ("--dynatemp-range 2", "dynatemp_range"),
        ("--typical-p 0", "typical_p"),
    ],
)
def test_what_cannot_go_together_is_refused_by_name(flags: str, named: str) -> None:
    with pytest.raises(InvalidParameter, match=named):
        params(flags)


@pytest.mark.parametrize("flags", ["--mirostat x", "--logit-bias 5", "--top-k 1.5", "--dry-base"])
def test_a_value_of_the_wrong_kind_is_wrong_use(flags: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        params(flags)
    assert caught.value.code == 2
    assert flags.split()[0] in capsys.readouterr().err


def test_more_than_one_text_needs_json() -> None:
    args = parse(["run", "model", "prompt", "--n", "2"])
    with pytest.raises(InvalidParameter, match="--n shows more than one text, so it needs --json"):
        args.main(args)
