"""tokenizer.json: equal to the `tokenizers` library reading the same file, and hostile files refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from support.hostile import assert_refused
from text_vocabularies import BYTES, CHATML, MERGES, Folder

from pellucid.errors import FormatError, ModelNotFound, PellucidError, UnsupportedModel
from pellucid.text.patterns import is_safe
from pellucid.text.pretokenizers import pre_tokenizer_kind
from pellucid.text.tokenizer import Tokenizer

GPT4 = r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEXTS = [
    "hello world 12", "", " ", "hello <|im_end|> world", "<|im_start|>hello<|im_end|>\n", "<think>hello</think>",
    "a<|user|> \n hello", "x<|im_end|><|im_end|>y", "é😀 12 1234", "<|im_endoftext|>", "hello<unk>", "  hello",
]  # fmt: skip


def added(content: str, id: int, **flags: bool) -> dict[str, Any]:
    options = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True} | flags
    return {"id": id, "content": content, **options}


def byte_level(special_in_vocab: bool = False) -> dict[str, Any]:
    """As Llama 3, Qwen 2 and GPT-2 write it: special tokens after the vocabulary, some added tokens not special."""
    pieces = [*BYTES, *(merge.replace(" ", "") for merge in MERGES)]
    names = [*CHATML, "<|user|>"]
    base = len(pieces)
    vocab = {piece: id for id, piece in enumerate([*pieces, *(names if special_in_vocab else [])])}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            *(added(name, base + index, rstrip=name == "<|user|>") for index, name in enumerate(names)),
            added("<think>", base + 4, special=False),
            added("</think>", base + 5, special=False, normalized=True),
        ],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": GPT4}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
        "post_processor": {
            "type": "Sequence",
            "processors": [
                {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
                {
                    "type": "TemplateProcessing",
                    "single": [{"SpecialToken": {"id": CHATML[0], "type_id": 0}}, text],
                    "pair": [text, {"Sequence": {"id": "B", "type_id": 1}}],
                    "special_tokens": {CHATML[0]: {"id": CHATML[0], "ids": [base], "tokens": [CHATML[0]]}},
                },
            ],
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "ignore_merges": True, "vocab": vocab, "merges": [pair.split(" ") for pair in MERGES]},
    }  # fmt: skip


def sentencepiece(metaspace: str | None) -> dict[str, Any]:
    """As Llama 2 and Mistral write it; `metaspace` is the newer form's prepend scheme, None the older normalizer."""
    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        *"▁helowrd",
        "he",
        "ll",
        "hell",
        "hello",
        "▁w",
    ]
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    prepend = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, spaces]}
    strip = [] if metaspace == "never" else [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    return {
        "version": "1.0",
        "added_tokens": [added(name, id) for id, name in enumerate(["<unk>", "<s>", "</s>"])],
        "normalizer": prepend if metaspace is None else None,
        "pre_tokenizer": None
        if metaspace is None
        else {"type": "Metaspace", "replacement": "▁", "prepend_scheme": metaspace, "split": False},
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                *strip,
            ],
        },
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": {piece: id for id, piece in enumerate(pieces)},
            "merges": ["h e", "l l", "he ll", "hell o", "▁ w"],
        },
    }  # fmt: skip


KINDS = {
    "byte-level": byte_level(),
    "specials-in-vocab": byte_level(special_in_vocab=True),
    "llama-2": sentencepiece(None),
    "metaspace-first": sentencepiece("first"),
    "metaspace-never": sentencepiece("never"),
}


def load(path: Path, tokenizer: Any, config: dict[str, Any] | None = None, **files: Any) -> Tokenizer:
    return Tokenizer.from_checkpoint(Folder(path, config, tokenizer__json=tokenizer, **files))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_library(tmp_path, kind):
    tokenizer = load(tmp_path, KINDS[kind])
    library = tokenizers.Tokenizer.from_str(json.dumps(KINDS[kind]))
    for text in TEXTS:
        library.encode_special_tokens = False
        assert tokenizer.encode(text, parse_special=True) == library.encode(text).ids
        library.encode_special_tokens = True
        ids = library.encode(text).ids
        assert tokenizer.encode(text) == ids
        assert tokenizer.encode(text, add_special=False) == library.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids, skip_special=True) == library.decode(ids, skip_special_tokens=True)


def test_added_tokens_keep_their_ids_and_kinds(tmp_path):
    document = byte_level()
    tokenizer = load(tmp_path, document)
    for token in document["added_tokens"]:
        assert tokenizer.encode(token["content"], add_special=False, parse_special=True) == [token["id"]]
        assert tokenizer.is_special(token["id"]) == token["special"]
        assert tokenizer.token_str(token["id"]) == token["content"]


@pytest.mark.parametrize("kind", KINDS)
def test_no_text_yields_a_special_token(tmp_path, kind):
    """Even where the vocabulary and its merges would spell one."""
    document = copy.deepcopy(KINDS[kind])
    model = document["model"]
    special = [
        token["content"] for token in document["added_tokens"] if token["special"] and token["content"] != "<unk>"
    ]
    for name in special:
        for end in range(1, len(name) + 1):
            for piece in (name[:end], name[end - 1]):
                model["vocab"].setdefault(piece, max(map(max, (model["vocab"].values(), [300]))) + 1)
        model["vocab"][name] = next(token["id"] for token in document["added_tokens"] if token["content"] == name)
        merges = [[name[:end], name[end]] for end in range(1, len(name))]
        model["merges"] = [merge if isinstance(merge, list) else merge.split(" ") for merge in model["merges"]] + merges
    tokenizer = load(tmp_path, document)
    for text in [*special, "".join(special), "hello " + special[0]]:
        ids = tokenizer.encode(text, add_special=False)
        assert not any(map(tokenizer.is_special, ids))
        assert tokenizer.decode(ids) == text


def test_configuration_goes_before_the_post_processor(tmp_path):
    config = {"bos_token": {"content": CHATML[1]}, "eos_token": CHATML[2], "add_bos_token": True, "add_eos_token": True}
    document = byte_level() | {"post_processor": None}
    tokenizer = load(tmp_path, document, tokenizer_config__json=config)
    assert tokenizer.decode(tokenizer.encode("hello")) == CHATML[1] + "hello" + CHATML[2]
    config = {"bos_token": CHATML[0], "add_bos_token": False}
    tokenizer = load(tmp_path, byte_level(), tokenizer_config__json=config)
    assert tokenizer.decode(tokenizer.encode("hello")) == "hello"


def test_ends_come_from_every_file(tmp_path):
    base = len(BYTES) + len(MERGES)
    tokenizer = load(
        tmp_path,
        byte_level(),
        config={"eos_token_id": 5},
        generation_config__json={"eos_token_id": [6, 7]},
        tokenizer_config__json={"eos_token": "<|user|>"},
    )
    assert tokenizer.eos_token_ids == {5, 6, 7, base + 1, base + 2, base + 3}


def test_the_template_is_found(tmp_path):
    config = {
        "chat_template": [{"name": "tools", "template": "t"}, {"name": "default", "template": "d{{ bos_token }}"}]
    }
    config["bos_token"] = CHATML[0]
    messages = [{"role": "user", "content": "hi"}]
    tokenizer = load(tmp_path, byte_level(), tokenizer_config__json=config)
    assert tokenizer.chat_template.render(messages) == "d<|im_start|>"
    tokenizer = load(tmp_path, byte_level(), chat_template__jinja="file")
    assert tokenizer.chat_template.render(messages) == "file"


def test_without_a_template_there_is_none(tmp_path):
    assert load(tmp_path, byte_level()).chat_template is None


def test_a_folder_without_tokenizer_json_says_so(tmp_path):
    with pytest.raises(ModelNotFound, match=r"tokenizer\.json"):
        Tokenizer.from_checkpoint(Folder(tmp_path))


def changed(**changes: Any) -> dict[str, Any]:
    """The byte-level document with `section__key=value` put in."""
    document = byte_level()
    for path, value in changes.items():
        section, _, key = path.partition("__")
        if key:
            document[section][key] = value
        else:
            document[section] = value
    return document


def split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


HOSTILE = {
    "empty": "",
    "not JSON": "{",
    "a list": "[]",
    "not UTF-8 text": "\x00\x01",
    "deep": "[" * 100_000,
    "deep object": '{"a":' * 100_000,
    "no model": changed(model=None),
    "a model that is a string": changed(model="BPE"),
    "no vocab": changed(model__vocab=None),
    "empty vocab": changed(model__vocab={}, model__merges=[], added_tokens=[], post_processor=None),
    "an id that is a string": changed(model__vocab={"a": "0"}),
    "a negative id": changed(model__vocab={"a": -1}),
    "an id of 2^60": changed(model__vocab={"a": 2**60}),
    "an id of 2^31": changed(model__vocab={"a": 2**31}),
    "an id that is true": changed(model__vocab={"a": True}),
    "two tokens with one id": changed(model__vocab={"a": 0, "b": 0}),
    "merges of unknown pieces": changed(model__merges=[["nope", "nope"]]),
    "merges of one piece": changed(model__merges=[["a"]]),
    "merges of numbers": changed(model__merges=[[1, 2]]),
    "merges that are numbers": changed(model__merges=[5]),
    "an unknown token there is none of": changed(model__unk_token=7),
    "added tokens that are strings": changed(added_tokens=["a"]),
    "an added token without text": changed(added_tokens=[added("", 5)]),
    "an added token with two ids": changed(added_tokens=[added("a", 5)]),
    "flags that are numbers": changed(added_tokens=[added("zzz", 300) | {"lstrip": 1}]),
    "a normalizer there is none of": changed(normalizer={"type": "Nope"}),
    "a charsmap that panics": changed(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
    "a charsmap that is short": changed(normalizer={"type": "Precompiled", "precompiled_charsmap": "/////w=="}),
    "a pattern that is not one": changed(pre_tokenizer=split("(")),
    "a post-processor adding an id there is none of": changed(
        post_processor={
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "x", "type_id": 0}}],
            "special_tokens": {"x": {"ids": [10**9]}},
        }
    ),
    "a post-processor without its tokens": changed(
        post_processor={"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x"}}], "special_tokens": {}}
    ),
}  # fmt: skip

REASONS = {
    "empty": "'tokenizer.json' is empty",
    "not JSON": "is not valid JSON",
    "a list": "holds a JSON list, expected an object",
    "not UTF-8 text": "is not valid JSON",
    "deep": "nests more than 32 levels deep",
    "deep object": "nests more than 32 levels deep",
    "no model": "has no model object",
    "a model that is a string": "has no model object",
    "no vocab": "needs a vocab object and a merges list",
    "empty vocab": "has no tokens",
    "an id that is a string": "vocab has a value that is not an id from 0 to",
    "a negative id": "vocab has a value that is not an id from 0 to",
    "an id of 2^60": "vocab has a value that is not an id from 0 to",
    "an id of 2^31": "vocab has a value that is not an id from 0 to",
    "an id that is true": "vocab has a value that is not an id from 0 to",
    "two tokens with one id": "gives the id 0 to two tokens, 'a' and 'b'",
    "merges of unknown pieces": "Token `nope` out of vocabulary",
    "merges of one piece": "has a merge that is not two pieces",
    "merges of numbers": "the tokenizers library refused it: .*Merges",
    "merges that are numbers": "the tokenizers library refused it: 'int' object is not iterable",
    "an unknown token there is none of": "the tokenizers library refused it: 'int' object",
    "added tokens that are strings": "has the added token a, expected an object with content and id",
    "an added token without text": "has the added token .* expected text and true or false flags",
    "an added token with two ids": "gives the token 'a' two ids",
    "flags that are numbers": "has the added token .* expected text and true or false flags",
    "a normalizer there is none of": "the tokenizers library refused it: .*Normalizer",
    "a charsmap that panics": "the tokenizers library refused it: .*Cannot parse precompiled_charsmap",
    "a charsmap that is short": "the tokenizers library refused it: .*Cannot parse precompiled_charsmap",
    "a pattern that is not one": "unmatched parenthesis",
    "a post-processor adding an id there is none of": "post-processor adds the id 1000000000, which no token has",
    "a post-processor without its tokens": "TemplateProcessing is not complete",
}

UNSUPPORTED = {
    "Unigram": changed(model__type="Unigram"),
    "WordPiece": changed(model__type="WordPiece"),
    "dropout": changed(model__dropout=0.1),
    "continuing_subword_prefix": changed(model__continuing_subword_prefix="##"),
    "end_of_word_suffix": changed(model__end_of_word_suffix="</w>"),
    "WordPiece decoder": changed(decoder={"type": "WordPiece"}),
    "nothing": changed(decoder=None),
    "BertProcessing": changed(post_processor={"type": "BertProcessing", "sep": ["x", 1], "cls": ["y", 2]}),
    "repeats a repetition": changed(pre_tokenizer=split("(a+)+$")),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(tmp_path, name):
    Folder(tmp_path, tokenizer__json=HOSTILE[name])
    assert_refused(tmp_path, FormatError, REASONS[name], lambda path: Tokenizer.from_checkpoint(Folder(path)))


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_not_supported_is_named(tmp_path, name):
    with pytest.raises(UnsupportedModel, match=name.split(" ")[0]):
        load(tmp_path, UNSUPPORTED[name])


@pytest.mark.parametrize("ends", ["2", -1, [True], 1.5, {"a": 1}])
def test_hostile_end_ids_are_refused(tmp_path, ends):
    with pytest.raises(FormatError, match="eos_token_id"):
        load(tmp_path, byte_level(), generation_config__json={"eos_token_id": ends})


@pytest.mark.parametrize(
    "files", [{"config": {"eos_token_id": 10**6}}, {"generation_config__json": {"eos_token_id": [300]}}]
)
def test_end_ids_beyond_the_vocabulary_are_refused(tmp_path, files):
    with pytest.raises(FormatError, match=r"config\.json: eos_token_id is .*, expected an id from 0 to 272"):
        load(tmp_path, byte_level(), **files)


def test_end_ids_may_lie_in_the_padding_of_the_logits(tmp_path):
    config = {"vocab_size": 320, "eos_token_id": 319}
    assert 319 in load(tmp_path, byte_level(), config).eos_token_ids


@pytest.mark.parametrize("kind", ["llama-bpe", "qwen2", "tekken"])
def test_published_patterns_are_safe(kind):
    assert is_safe(pre_tokenizer_kind(kind).pattern)


def test_every_way_of_removing_or_replacing_a_part_is_survived(tmp_path):
    """Each value in the document is replaced by values of other types: an error of ours, or a tokenizer."""

    def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        found = [path]
        for key, item in items:
            if path[:2] not in {("model", "vocab"), ("model", "merges")} or len(path) < 3:
                found += places(item, (*path, key))
        return found

    original = byte_level()
    original["model"]["vocab"] = {piece: id for piece, id in original["model"]["vocab"].items() if id > 240}
    original["model"]["merges"] = []
    num_refused = 0
    for path in places(original)[1:]:
        for value in (None, -1, "x", [], {}, [None], {"type": "x"}):
            document = copy.deepcopy(original)
            target = document
            for key in path[:-1]:
                target = target[key]
            target[path[-1]] = value
            try:
                load(tmp_path, document).encode("hello <think>", parse_special=True)
            except PellucidError:
                num_refused += 1
    assert num_refused > 100


@pytest.mark.parametrize(
    "pattern",
    [
        *("(a+)+", "(a*)*$", "(?:a+)*", "((a+))+", "(a|b+)*", "(?:(a{2,})b)+", "(?<n>a+)+", "(?>a+)+", "((?=a+)b)+"),
        *("(?:a|a)*b", "(?i:a|b){2,}", "((a|ab))*", "(a?){30}a{30}", "(a?b)*", "(a{1,2}){30}"),
        *(r"(a)\1+", r"(?<n>a)\k<n>", r"(a)\g<1>", "(?(1)a|b)", "(?~a)", "(?#a)", "a)", "x" * 5000),
    ],
)
def test_patterns_that_may_take_forever_are_not_safe(pattern):
    assert not is_safe(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        *(GPT4, "[(+]+", r"\(+\)+", "(ab)+", "a++", "[^)+*]*x", r"(?i:'s|'t)?\p{L}+", r"[\1]+", "(?i)(?:ab)+"),
        r"\p{N}+|(?=(\d{3})+(?!\d))",
    ],
)
def test_other_patterns_are(pattern):
    assert is_safe(pattern)
