"""What a checkpoint may not ask for: every setting is built, known to be harmless, or refused by name."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.golden_models import CASES, GOLDENS, altered, build_case, load_config
from support.model_to_gguf import convert_to_gguf

from pellucid.errors import FormatError, GraphError, InvalidParameter, ModelError, UnsupportedModel
from pellucid.formats.checkpoint import Checkpoint, open_checkpoint
from pellucid.graph.ir import Graph
from pellucid.graph.weights import from_array
from pellucid.models.reader import HF_HARMLESS
from pellucid.models.registry import FAMILIES, build_model

# Settings of the golden files that a changed value cannot alter: the rest must refuse, or change the graph.
HARMLESS = {
    *HF_HARMLESS,
    *("resid_pdrop", "embd_pdrop", "attn_pdrop", "reorder_and_upcast_attn"),
    *("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout"),
}
# Accepted and without effect on the golden file, as in transformers.
WITHOUT_EFFECT = {
    *[(case, key) for case in ("qwen2", "qwen3") for key in ("sliding_window", "max_window_layers")],  # windows are off
    *[(case, "use_sliding_window") for case in ("qwen2", "qwen3")],  # layer_types has the say
    ("qwen2-window", "max_window_layers"),
}
NOTHING = {"sliding_window": 0, "rope_parameters": {}, "attn_logit_softcapping": 0, "final_logit_softcapping": 0}
ABSURD = [0, -1, 2**32 - 1, 10**30, True, "5", 1.5, math.nan, math.inf, [], {}, "x" * 10**6]


def build(case: str, changes: dict[str, object], **rest: Any) -> Graph:
    with altered(case, changes, **rest) as ckpt:
        return build_model(ckpt)[1]


SETTINGS = [(case, key) for case in CASES for key in load_config(case) if key not in HARMLESS]


@pytest.mark.parametrize(("case", "key"), SETTINGS)
def test_absurd_settings_are_refused_by_name_at_once(case: str, key: str) -> None:
    plain, start = fingerprint(build_case(case)), time.perf_counter()
    for value in ABSURD:
        message, changed, named = "", False, True
        try:
            changed = fingerprint(build(case, {key: value})) != plain
        except ModelError as error:
            message = str(error)
            named = key in message or isinstance(error, GraphError) or "cannot share" in message
        as_before = value in (load_config(case)[key], NOTHING.get(key, load_config(case)[key]))
        assert message or changed or as_before or (case, key) in WITHOUT_EFFECT, f"{key} = {value!r} was ignored"
        assert named, message
        assert len(message) < 1000
    assert time.perf_counter() - start < 1.0


def fingerprint(graph: Graph) -> tuple[str, list[bytes]]:
    return graph.dump(), [t.data.tobytes() for name, t in graph.weights().items() if name.endswith("inv_freq")]


REFUSED = [
    ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}}, "rope_type is 'yarn'"),
    ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type is 'dynamic'"),
    ("llama", {"rope_parameters": {"type": "ntk", "factor": 2.0}}, "type is 'ntk'"),
    ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "mscale": 1.0}}, "mscale = 1.0"),
    ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_scaling and rope_parameters"),
    ("llama", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    ("llama", {"sliding_window": 512}, "sliding_window = 512"),
    ("llama", {"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
    ("llama", {"num_local_experts": 8}, "num_local_experts = 8"),
    ("llama", {"rope_interleaved": True}, "rope_interleaved is True"),
    ("llama", {"a_key_of_tomorrow": 1.0}, "a_key_of_tomorrow = 1.0"),
    ("llama", {"model_type": "mixtral"}, "model_type is 'mixtral'"),
    ("llama", {"is_encoder_decoder": True}, "is_encoder_decoder is True"),
    ("mistral", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
    ("qwen2", {"layer_types": ["sliding_attention"] * 2}, "layer_types is 'sliding_attention'"),
    ("qwen2", {"use_mrope": True}, "use_mrope is True"),
    ("gemma", {"hidden_act": "silu"}, "hidden_act is 'silu'"),
    ("gemma2", {"layer_types": ["full_attention", "chunked_attention"]}, "layer_types is 'chunked_attention'"),
    ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
    ("phi3", {"attention_bias": True}, "attention_bias is True"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
    ("gpt2", {"activation_function": "relu"}, "activation_function is 'relu'"),
]


@pytest.mark.parametrize(("case", "changes", "message"), REFUSED)
def test_what_is_not_built_is_refused(case: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UnsupportedModel, match=re.escape(message)):
        build(case, changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "low_freq_factor is missing"),
        ({"num_key_value_heads": 3}, "4 attention heads cannot share 3"),
        ({"num_attention_heads": 5, "num_key_value_heads": 5, "head_dim": None}, "32 cannot be cut into 5 heads"),
        ({"head_dim": 7}, "to leave an even share of 7"),
        ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.0}}, "to leave an even share of 8"),
        ({"rope_parameters": [1]}, "rope_parameters is [1], expected an object"),
    ],
)
def test_settings_that_do_not_fit_together(changes: dict[str, object], message: str) -> None:
    with pytest.raises(FormatError, match=re.escape(message)):
        build("llama", changes)


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "num_attention_heads", "rms_norm_eps"])
def test_missing_settings(key: str) -> None:
    with pytest.raises(FormatError, match=f"{key} is missing"):
        build("llama", {}, drop=(key,))


# Keys of published config.json files beyond those of the golden ones; they change nothing.
PUBLISHED = [
    ("llama", {"pretraining_tp": 1, "rope_interleaved": False, "is_llama_config": True, "torch_dtype": "bfloat16"}),
    ("llama", {"transformers.js_config": {"dtype": "q4"}, "_name_or_path": "a/b", "auto_map": {"AutoModel": "x.Y"}}),
    ("qwen2", {"use_mrope": False, "rope_scaling": None}),
    ("gemma", {"hidden_act": "gelu", "hidden_activation": None}),
    ("gemma2", {"sliding_window_size": 12, "cache_implementation": "hybrid", "hidden_act": "gelu_pytorch_tanh"}),
    ("phi3", {"attention_bias": False, "lm_head_bias": False, "mlp_bias": False, "full_attn_mod": 1}),
    ("gpt2", {"n_ctx": 64, "task_specific_params": {"text-generation": {"max_length": 50}}, "_num_labels": 1}),
]


@pytest.mark.parametrize(("case", "changes"), PUBLISHED)
def test_keys_of_published_files_are_accepted(case: str, changes: dict[str, object]) -> None:
    assert fingerprint(build(case, changes)) == fingerprint(build_case(case))


def test_unknown_architectures_list_the_known_ones() -> None:
    for changes in ({"architectures": ["LlamaForSequenceClassification"]}, {"architectures": None, "model_type": "t5"}):
        with pytest.raises(UnsupportedModel) as error:
            build("llama", changes)
        names = [f.hf_architecture for f in FAMILIES]
        assert all(name in str(error.value) for name in names)
    for architectures in ([], ["A", "B"], "LlamaForCausalLM", 5):
        with pytest.raises(FormatError, match="expected a list of one name"):
            build("llama", {"architectures": architectures})


def test_model_type_decides_without_architectures() -> None:
    assert build("qwen3", {"architectures": None}).dump() == build_case("qwen3").dump()


def test_tensors_left_over_are_named() -> None:
    extra = from_array("model.layers.1.self_attn.q_proj.bias", np.ones(32))
    with pytest.raises(GraphError, match=r"1 tensors are not part of .*self_attn\.q_proj\.bias"):
        build("llama", {}, tensors={extra.name: extra})


def test_layers_promised_but_missing() -> None:
    with pytest.raises(GraphError, match=r"model\.layers\.2\.input_layernorm\.weight is missing"):
        build("llama", {"num_hidden_layers": 3})
    with pytest.raises(GraphError, match=r"not part of a 1-layer Llama: model\.layers\.1\."):
        build("llama", {"num_hidden_layers": 1})


@pytest.mark.parametrize("key", ["hidden_size", "intermediate_size", "vocab_size", "num_key_value_heads", "head_dim"])
def test_sizes_that_the_tensors_do_not_have(key: str) -> None:
    with pytest.raises(GraphError, match="expected"):
        build("llama", {key: 2 * load_config("llama")[key]})


def test_tied_heads() -> None:
    head, embedding = "lm_head.weight", "model.embed_tokens.weight"
    plain = build_case("qwen2").dump()
    with open_checkpoint(GOLDENS / "qwen2") as ckpt:
        stored = ckpt.tensors[embedding]
    assert build("qwen2", {}, tensors={head: stored}).dump() == plain
    assert build("qwen2", {}, tensors={head: stored, embedding: None}).dump() == plain
    with pytest.raises(GraphError, match="tie_word_embeddings is true, but lm_head"):
        build("qwen2", {}, tensors={head: from_array(head, np.zeros(stored.shape))})
    with pytest.raises(GraphError, match=r"lm_head\.weight is missing"):
        build("qwen2", {"tie_word_embeddings": False})


@pytest.mark.parametrize("length", [0, -1, 257])
def test_max_model_len_out_of_range(length: int) -> None:
    with pytest.raises(InvalidParameter, match=f"is {length}, expected 1 to 256"):
        build_case("llama", length)


@pytest.mark.parametrize(
    "config",
    [
        {"rope_theta": 500.0, "rope_scaling": {"type": "llama3"}},
        {"rope_theta": 500.0, "rope_scaling": {"rope_type": "llama3", "type": "llama3"}},
    ],
)
def test_files_of_older_transformers(config: dict[str, Any]) -> None:
    """`rope_theta` and `rope_scaling` apart, `torch_dtype`, stored rope buffers."""
    new = load_config("llama3")["rope_parameters"]
    scaling = config["rope_scaling"] | {k: v for k, v in new.items() if k not in ("rope_type", "rope_theta")}
    buffer = from_array("model.layers.0.self_attn.rotary_emb.inv_freq", np.ones(8))
    changes = {"rope_theta": new["rope_theta"], "rope_scaling": scaling, "torch_dtype": "float16"}
    old = build("llama3", changes, drop=("rope_parameters", "dtype"), tensors={buffer.name: buffer})
    assert_same_graph(old, build_case("llama3"))


def test_gemma3_files_of_older_transformers() -> None:
    new = load_config("gemma3")["rope_parameters"]
    changes = {
        "rope_theta": new["full_attention"]["rope_theta"],
        "rope_local_base_freq": new["sliding_attention"]["rope_theta"],
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "sliding_window_pattern": 6,
    }
    old = build("gemma3", changes, drop=("rope_parameters", "layer_types", "_sliding_window_pattern"))
    assert_same_graph(old, build_case("gemma3"))


def test_gpt2_file_without_its_prefix_and_with_masks() -> None:
    with open_checkpoint(GOLDENS / "gpt2") as ckpt:
        names = list(ckpt.tensors)
        tensors = [replace(t, name=t.name.removeprefix("transformer.")) for t in ckpt.tensors.values()]
        bare = {tensor.name: tensor for tensor in tensors}
    bare["h.0.attn.bias"] = from_array("h.0.attn.bias", np.tril(np.ones((1, 1, 64, 64))))
    bare["h.1.attn.masked_bias"] = from_array("h.1.attn.masked_bias", np.array([-1e4]))
    graph = build("gpt2", {"n_ctx": 64}, tensors=dict.fromkeys(names) | bare)
    assert graph.dump() == build_case("gpt2").dump().replace("transformer.", "")


def assert_same_graph(found: Graph, expected: Graph) -> None:
    assert found.dump() == expected.dump()
    for name, tensor in expected.weights().items():
        np.testing.assert_array_equal(found.weights()[name].data, tensor.data, err_msg=name)


@pytest.fixture
def gguf_case(tmp_path: Path) -> Callable[[str, dict[str, object]], Checkpoint]:
    def load(case: str, changes: dict[str, object]) -> Checkpoint:
        with open_checkpoint(GOLDENS / case) as original:
            path = convert_to_gguf(original, tmp_path / "model.gguf")
        ckpt = open_checkpoint(path)
        return Checkpoint(path, "gguf", ckpt.metadata | changes, dict(ckpt.tensors))

    return load


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("general.architecture", "mamba", UnsupportedModel),
        ("general.architecture", 5, FormatError),
        ("general.type", "adapter", UnsupportedModel),
        ("general.type", np.zeros(2, np.uint32), FormatError),
        ("general.name", np.zeros(2, np.uint32), FormatError),
        ("general.architecture", np.zeros(2, np.uint32), FormatError),
        ("llama.attention.head_count", 0, FormatError),
        ("llama.attention.head_count", [4, 4], FormatError),
        ("llama.attention.head_count_kv", 2**32 - 1, FormatError),
        ("llama.block_count", 2**32 - 1, FormatError),
        ("llama.block_count", 4000, GraphError),
        ("llama.embedding_length", True, FormatError),
        ("llama.embedding_length", 32.0, FormatError),
        ("llama.attention.layer_norm_rms_epsilon", math.nan, FormatError),
        ("llama.attention.layer_norm_rms_epsilon", 0.0, GraphError),
        ("llama.attention.value_length", 16, UnsupportedModel),
        ("llama.rope.freq_base", math.inf, FormatError),
        ("llama.rope.freq_base", -1.0, FormatError),
        ("llama.rope.dimension_count", 7, FormatError),
        ("llama.rope.dimension_count", 64, FormatError),
        ("llama.rope.scaling.type", "yarn", UnsupportedModel),
        ("llama.rope.scaling.type", "longrope", FormatError),
        ("llama.rope.scaling.factor", 1e-300, FormatError),
        ("llama.attention.clamp_kqv", 8.0, UnsupportedModel),
        ("llama.attention.causal", False, UnsupportedModel),
        ("llama.expert_count", 8, UnsupportedModel),
        ("llama.expert_count", np.zeros(1, np.uint32), UnsupportedModel),
        ("llama.expert_count", np.zeros(2, np.uint32), UnsupportedModel),
        ("llama.attention.causal", np.ones(1, np.bool_), UnsupportedModel),
        ("llama.logit_scale", 0.5, UnsupportedModel),
        ("llama.a_key_of_tomorrow", 1, UnsupportedModel),
        ("llama.vocab_size", 95, GraphError),
        ("llama.context_length", 0, FormatError),
    ],
)
def test_gguf_settings(
    gguf_case: Callable[[str, dict[str, object]], Checkpoint], key: str, value: object, error: type[ModelError]
) -> None:
    with pytest.raises(error, match=re.escape(key) if error is not GraphError else None):
        build_model(gguf_case("llama", {key: value}))


def test_gguf_settings_that_change_nothing(gguf_case: Callable[[str, dict[str, object]], Checkpoint]) -> None:
    changes = {
        "llama.rope.scaling.type": "none",
        "llama.rope.scaling.factor": 0.0,
        "llama.expert_count": 0,
        "llama.attention.causal": True,
        "llama.tensor_data_layout": "Meta AI original pth",
        "tokenizer.ggml.model": "llama",
        "quantize.imatrix.file": "x",
    }
    assert build_model(gguf_case("llama", changes))[1].dump() == build_model(gguf_case("llama", {}))[1].dump()
