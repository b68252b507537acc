"""The sampling flags of `run` and `chat`: one table, from which parser, defaults and SamplingParams follow.

Where llama.cpp has another name for one of them, that name works, too. SamplingParams validates the values and refuses
what cannot go together, by name.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

from pellucid.sampling import SamplingParams
from pellucid.sampling_fields import SAMPLERS
from pellucid.structured_outputs import StructuredOutputs


class Flag(NamedTuple):
    """`value` is what stands after the flag in the help, and its type; of a TEXT or ID=X flag several may be given."""

    names: str
    parameter: str
    value: str
    help: str


FLAGS = (
    Flag("-n --max-tokens", "max_tokens", "N", "longest answer in tokens; -1: until the model ends it"),
    Flag("--min-tokens", "min_tokens", "N", "shortest answer in tokens"),
    Flag("-s --seed", "seed", "N", "the same seed gives the same answer; -1: a random one"),
    Flag("--temp --temperature", "temperature", "X", "temperature; 0 takes the most likely token every time"),
    Flag("--top-k", "top_k", "N", "keep the N most likely tokens; 0: all"),
    Flag("--top-p", "top_p", "X", "keep the most likely tokens up to this probability"),
    Flag("--min-p", "min_p", "X", "keep tokens at least X times as likely as the likeliest"),
    Flag("--typical-p --typical", "typical_p", "X", "keep the tokens of most typical surprise up to this probability"),
    Flag("--top-n-sigma --top-nsigma", "top_n_sigma", "X", "keep logits within X deviations of the largest; 0: all"),
    Flag("--xtc-probability", "xtc_probability", "X", "how often to exclude the top choices; 0: never"),
    Flag("--xtc-threshold", "xtc_threshold", "X", "the probability from which a token is a top choice"),
    Flag("--dynatemp-range", "dynatemp_range", "X", "let entropy move the temperature up and down so far"),
    Flag("--dynatemp-exponent --dynatemp-exp", "dynatemp_exponent", "X", "how the temperature follows the entropy"),
    Flag("--mirostat", "mirostat", "N", "1 or 2: keep the surprise constant, in place of --top-k and the like"),
    Flag("--mirostat-tau --mirostat-ent", "mirostat_tau", "X", "the surprise wanted, in bits a token"),
    Flag("--mirostat-eta --mirostat-lr", "mirostat_eta", "X", "how fast mirostat learns"),
    Flag("--samplers", "samplers", "NAMES", "the samplers to use, in this order, between commas or semicolons"),
    Flag(
        "--repeat-penalty --repetition-penalty",
        "repetition_penalty",
        "X",
        "above 1, tokens that were there before become less likely",
    ),
    Flag("--presence-penalty", "presence_penalty", "X", "subtracted from the logit of a token of the answer"),
    Flag("--frequency-penalty", "frequency_penalty", "X", "the same for each time that the token is there"),
    Flag("--repeat-last-n", "repeat_last_n", "N", "how many of the last tokens the penalties look at; -1: all"),
    Flag("--dry-multiplier", "dry_multiplier", "X", "make long repetitions less likely (DRY); 0: off"),
    Flag("--dry-base", "dry_base", "X", "how fast DRY's penalty grows with the length of the repetition"),
    Flag("--dry-allowed-length", "dry_allowed_length", "N", "the shortest repetition that DRY acts against"),
    Flag("--dry-sequence-breaker", "dry_sequence_breakers", "TEXT", "DRY's repetitions do not go across this text"),
    Flag("--no-repeat-ngram-size", "no_repeat_ngram_size", "N", "never repeat so many tokens in a row; 0: off"),
    Flag("-l --logit-bias", "logit_bias", "ID=X", "add X to the logit of token ID"),
    Flag("--bad-word", "bad_words", "TEXT", "a text that the answer must not hold"),
    Flag("-r --stop --reverse-prompt", "stop", "TEXT", "end the answer where this text comes"),
    Flag("--stop-regex", "stop_regex", "TEXT", "end the answer where this regular expression first matches"),
    Flag("--best-of", "best_of", "N", "make N answers, show the most probable; nothing is shown before the end"),
    Flag("--beam-width", "beam_width", "N", "look for the most probable answer with N beams, in place of sampling"),
    Flag("--length-penalty", "length_penalty", "X", "beams: the larger, the better are long answers"),
    Flag("--ignore-eos", "ignore_eos", "", "go on after the model's end token"),
)

MANY_ANSWERS = (
    Flag("--n", "n", "N", "so many independent answers, with --json"),
    Flag("--logprobs", "logprobs", "N", "log-probabilities of the tokens and of the N most likely ones, with --json"),
    Flag("--prompt-logprobs", "prompt_logprobs", "N", "the same for the prompt, with --json"),
    Flag("--echo", "echo", "", "put the prompt before the answer, with --json and --raw"),
)
"""What `run` has besides: more than an answer's text."""

PREFERRED: Mapping[str, float] = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}
"""Defaults of these commands where SamplingParams has others; llama.cpp's. --samplers, --mirostat and --beam-width
replace them."""


def add(parser: argparse.ArgumentParser, flags: Sequence[Flag] = FLAGS) -> None:
    group = parser.add_argument_group("sampling")
    for flag in flags:
        options: dict[str, Any] = {"dest": flag.parameter, "default": None, "help": flag.help + _default(flag)}
        if not flag.value:
            options["action"] = "store_true"
        else:
            options.update(metavar=flag.value, type=_TYPES[flag.value])
            if flag.value in ("TEXT", "ID=X"):
                options["action"] = "append"
        group.add_argument(*flag.names.split(), **options)


def sampling_params(args: argparse.Namespace, form: StructuredOutputs | None = None) -> SamplingParams:
    """The flags as SamplingParams, which validates them, and the form that the answer must have."""
    flags = (*FLAGS, *MANY_ANSWERS)
    given = {f.parameter: value for f in flags if (value := getattr(args, f.parameter, None)) is not None}
    for name in ("max_tokens", "seed"):
        if given.get(name) == -1:
            del given[name]
    if "logit_bias" in given:
        given["logit_bias"] = dict(given["logit_bias"])
    used = set() if given.get("beam_width") else set(given.get("samplers", SAMPLERS))
    if given.get("mirostat"):
        used -= {"top_k", "top_p", "min_p"}
    preferred = {name: value for name, value in PREFERRED.items() if name in used}
    return SamplingParams(**preferred | given, structured_outputs=form)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.replace(";", ",").split(",")]


def _bias(text: str) -> tuple[int, float]:
    token, _, number = text.partition("=")
    return int(token), float(number)


_TYPES: Mapping[str, Callable[[str], Any]] = {"N": int, "X": float, "TEXT": str, "NAMES": _names, "ID=X": _bias}


def _default(flag: Flag) -> str:
    """What the help says happens without the flag."""
    value: Any = PREFERRED.get(flag.parameter, _DEFAULTS[flag.parameter])
    if flag.parameter in ("max_tokens", "seed"):
        value = -1
    if flag.parameter in ("samplers", "dry_sequence_breakers"):
        value = ", ".join(map(_shown, value))
    return "" if value in (None, ()) or value is False else f" (default: {value})"


def _shown(text: str) -> str:
    return text.replace("\n", r"\n")


_DEFAULTS = {field.name: field.default for field in fields(SamplingParams)}
