"""ConfigReader: strict reading of a checkpoint's configuration.

Every key is read, known to be harmless, or holds the one value that changes nothing. Anything else is refused, because
a key that is dropped in silence (a new rope scaling, a bias, a mixture of experts) makes the model answer wrongly.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence

import numpy as np

from pellucid.errors import FormatError, UnsupportedModel

GGUF_KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "value_head_dim": "attention.value_length",
    "intermediate_size": "feed_forward_length",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "layer_norm_eps": "attention.layer_norm_epsilon",
    "sliding_window": "attention.sliding_window",
    "sliding_window_pattern": "attention.sliding_window_pattern",
    "attention_scale": "attention.scale",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "rope_theta": "rope.freq_base",
    "rope_local_base_freq": "rope.freq_base_swa",
    "rotary_dims": "rope.dimension_count",
    "rope_scaling_type": "rope.scaling.type",
    "rope_scaling_factor": "rope.scaling.factor",
    "rope_scale_linear": "rope.scale_linear",
    "rope_original_length": "rope.scaling.original_context_length",
    "rope_attention_factor": "rope.scaling.attn_factor",
}
"""Our name for a setting (that of config.json where it has one) → GGUF's, after the `<architecture>.` prefix."""

GGUF_NEUTRAL: Mapping[str, Sequence[object]] = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "embedding_scale": (1,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "logit_scale": (1,),
    "pooling_type": (0,),
    "residual_scale": (1,),
    "tensor_data_layout": ("Meta AI original pth",),
    "use_parallel_residual": (False,),
}
GGUF_HARMLESS = ("rope.scaling.finetuned",)

HF_NEUTRAL: Mapping[str, Sequence[object]] = {
    "add_cross_attention": (False,),
    "is_encoder_decoder": (False,),
    "per_layer_config": ({},),
    "pruned_heads": ({},),
    "tie_encoder_decoder": (False,),
    "use_bidirectional_attention": (False,),
}
_HF_HARMLESS_BECAUSE = {
    "names the model, or who wrote the file": """
        _name_or_path architectures auto_map dtype model_type torch_dtype torchscript transformers_version
        transformers.js_config unsloth_fixed unsloth_version use_bfloat16""",
    "the tokenizer and generation_config.json have the say": """
        bos_token_id cls_token_id decoder_start_token_id eos_token_id forced_bos_token_id forced_eos_token_id
        pad_token_id prefix sep_token_id tokenizer_class unk_token_id
        do_sample max_length min_length num_beams repetition_penalty temperature top_k top_p""",
    "for training, or how the Python code runs": """
        _attn_implementation attention_dropout attn_implementation cache_implementation chunk_size_feed_forward
        gradient_checkpointing hidden_dropout initializer_range is_decoder output_attentions output_hidden_states
        pretraining_tp return_dict tie_last_hidden_states use_cache""",
    "for other tasks than predicting the next token": """
        _num_labels finetuning_task id2label label2id num_labels problem_type task_specific_params""",
}
HF_HARMLESS = frozenset(key for keys in _HF_HARMLESS_BECAUSE.values() for key in keys.split())


class ConfigReader:
    """Typed, range-checked access to a flat mapping of settings; `where` names it in messages.

    `keys` translates our names to the file's. A name that it does not hold is looked up unchanged, unless `closed`:
    then the format has no such key and the default is taken. A value of null counts as absent.

    Raises FormatError for a value that is missing, of another type or out of range, and UnsupportedModel for one that
    asks for something not implemented. Nothing is allocated in proportion to a value.
    """

    def __init__(
        self, values: Mapping[str, object], where: str, keys: Mapping[str, str] | None = None, *, closed: bool = False
    ) -> None:
        self._values = values
        self._where = where
        self._keys = keys or {}
        self._closed = closed
        self._read: set[str] = set()

    @classmethod
    def for_gguf(cls, metadata: Mapping[str, object], architecture: str) -> ConfigReader:
        """The keys of `architecture` in a GGUF file; all others (general, tokenizer, …) belong to somebody else."""
        prefix = f"{architecture}."
        keys = {name: prefix + key for name, key in GGUF_KEYS.items()}
        values = {key: value for key, value in metadata.items() if key.startswith(prefix)}
        reader = cls(values, "GGUF metadata", keys, closed=True)
        reader._read.update(prefix + key for key in GGUF_HARMLESS)
        for key, allowed in GGUF_NEUTRAL.items():
            reader._neutral(prefix + key, allowed)
        return reader

    @classmethod
    def for_hf(cls, config: Mapping[str, object], keys: Mapping[str, str]) -> ConfigReader:
        """A model folder's config.json."""
        reader = cls(config, "config.json", keys)
        reader.ignore(*HF_HARMLESS)
        for key, allowed in HF_NEUTRAL.items():
            reader.neutral(key, *allowed)
        return reader

    def has(self, name: str) -> bool:
        key = self._key(name)
        return key is not None and self._values.get(key) is not None

    def integer(
        self,
        name: str,
        default: int | None = None,
        *,
        null: int | None = None,
        minimum: int = 1,
        maximum: int = 2**31 - 1,
    ) -> int:
        """Without a `default` the key is required; `null` is what a written null means, if not the default."""
        value = self._take(name, default, null)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.wrong(name, value, "an integer")
        if not minimum <= value <= maximum:
            raise self.wrong(name, value, f"{minimum} to {maximum}")
        return value

    def number(
        self,
        name: str,
        default: float | None = None,
        *,
        null: float | None = None,
        minimum: float = 0.0,
        maximum: float = 1e30,
    ) -> float:
        value = self._take(name, default, null)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(name, value, "a number")
        if not minimum <= value <= maximum:  # also false for NaN
            raise self.wrong(name, value, f"{minimum:g} to {maximum:g}")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        value = self._take(name, default)
        if not isinstance(value, bool):
            raise self.wrong(name, value, "true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        value = self._take(name, default)
        if not isinstance(value, str):
            raise self.wrong(name, value, "a string")
        return value

    def choice(self, name: str, default: str, supported: Sequence[str]) -> str:
        value = self.text(name, default)
        if value not in supported:
            raise self.unsupported(name, value, " or ".join(supported))
        return value

    def numbers(self, name: str, count: int) -> list[float]:
        """A list of `count` finite numbers."""
        value = self._take(name, None)
        if not isinstance(value, list) or len(value) != count:
            raise self.wrong(name, value, f"a list of {count} numbers")
        if any(isinstance(v, bool) or not isinstance(v, int | float) or not abs(v) <= 1e30 for v in value):
            raise self.wrong(name, value, f"a list of {count} finite numbers")
        return [float(v) for v in value]

    def strings(self, name: str, count: int, supported: Sequence[str]) -> list[str] | None:
        """A list of `count` of the `supported` strings, or None without the key."""
        if not self.has(name):
            return None
        value = self._take(name, None)
        if not isinstance(value, list) or len(value) != count:
            raise self.wrong(name, value, f"a list of {count} strings")
        for item in value:
            if item not in supported:
                raise self.unsupported(name, item, " or ".join(supported))
        return value

    def section(self, name: str) -> ConfigReader | None:
        """The mapping under `name`, as a reader of its own that must be finished too; None without the key."""
        if not self.has(name):
            return None
        value = self._take(name, None)
        if not isinstance(value, dict):
            raise self.wrong(name, value, "an object")
        return ConfigReader(value, f"{self._where}: {self._key(name)}")

    def neutral(self, name: str, *allowed: object) -> None:
        """`name` may be absent or hold one of the values with which it changes nothing."""
        key = self._key(name)
        if key is not None:
            self._neutral(key, allowed)

    def ignore(self, *names: str) -> None:
        """`names` change nothing, whatever they hold."""
        self._read.update(key for key in map(self._key, names) if key is not None)

    def finish(self) -> None:
        """Raise UnsupportedModel if a key was neither read nor known to be harmless."""
        unread = [key for key, value in self._values.items() if key not in self._read and value is not None]
        if unread:
            shown = ", ".join(f"{key} = {_short(self._values[key])}" for key in unread[:5])
            more = f" and {len(unread) - 5} more" if len(unread) > 5 else ""
            raise UnsupportedModel(
                f"{self._where}: {shown}{more} not understood; running the model without would give wrong answers"
            )

    def unsupported(self, name: str, value: object, supported: str) -> UnsupportedModel:
        return UnsupportedModel(f"{self._where}: {self._key(name)} is {_short(value)}, supported: {supported}")

    def wrong(self, name: str, value: object, expected: str) -> FormatError:
        return FormatError(f"{self._where}: {self._key(name)} is {_short(value)}, expected {expected}")

    def _key(self, name: str) -> str | None:
        return self._keys.get(name, None if self._closed else name)

    def _take(self, name: str, default: object, null: object = None) -> object:
        key = self._key(name)
        if key is not None:
            self._read.add(key)
            value = self._values.get(key, default)
            if value is None:
                value = null
            if value is not None:
                return value
        if default is None:
            raise FormatError(f"{self._where}: {key or name} is missing")
        return default

    def _neutral(self, key: str, allowed: Sequence[object]) -> None:
        self._read.add(key)
        value = self._values.get(key)
        if value is not None and not any(_same(value, item) for item in allowed):
            supported = " or ".join(repr(item) for item in allowed)
            raise UnsupportedModel(f"{self._where}: {key} is {_short(value)}, supported: {supported}")


def _same(value: object, item: object) -> bool:
    """Equal, and of one kind: True is not 1, and an array of one 0 (which NumPy would call equal) is not 0."""
    if isinstance(value, np.ndarray):
        return False
    return value == item and isinstance(value, bool) is isinstance(item, bool)


def _short(value: object) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return reprlib.repr(value)
