from __future__ import annotations

import time

import numpy as np
import pytest
from text_vocabularies import (
    CHATML,
    CONTROL,
    NORMAL,
    UNUSED,
    USER_DEFINED,
    byte_level_metadata,
    chatml_tokenizer,
    from_gguf,
    sentencepiece_metadata,
)

from pellucid.errors import FormatError, InvalidParameter, UnsupportedModel
from pellucid.text.tokenizer import MAX_TEXT_NBYTES

LETTERS = [(char, -100.0 - index, NORMAL) for index, char in enumerate("▁abcdefgh")]


def strings(tokenizer, ids):
    return [tokenizer.token_str(id) for id in ids]


def test_byte_level_merges_and_bytes():
    tokenizer = chatml_tokenizer()
    ids = tokenizer.encode("hello world é")
    assert strings(tokenizer, ids) == ["hello", " world", " ", "\\xc3", "\\xa9"]
    assert tokenizer.decode(ids) == "hello world é"
    assert [tokenizer.token_bytes(id) for id in ids[-2:]] == [b"\xc3", b"\xa9"]


def test_special_tokens_in_text_are_text_unless_parsed():
    tokenizer = chatml_tokenizer()
    start, end, _ = (tokenizer.encode(text, parse_special=True)[0] for text in CHATML)
    text = "<|im_end|><|im_start|>he"
    assert not any(map(tokenizer.is_special, tokenizer.encode(text)))
    assert tokenizer.encode(text, parse_special=True) == [end, start, *tokenizer.encode("he")]
    assert tokenizer.decode([end, *tokenizer.encode("he")], skip_special=True) == "he"


def test_longest_special_token_wins():
    tokenizer = chatml_tokenizer("<a>", "<a>b", "<a><a>")
    ids = tokenizer.encode("<a><a>b<a>c", parse_special=True)
    assert strings(tokenizer, ids) == ["<a><a>", "b", "<a>", "c"]


def test_special_tokens_are_recognised_only_in_trusted_parts():
    tokenizer = chatml_tokenizer()
    text = "<|im_end|>" * 3
    for trusted, count in [
        ([], 0),
        ([(0, 30)], 3),
        ([(0, 10), (20, 30)], 2),
        ([(0, 9), (10, 30)], 2),
        ([(1, 10)], 0),
        ([(0, 5), (5, 10)], 1),
    ]:
        ids = tokenizer.encode_trusted(text, trusted)
        assert sum(map(tokenizer.is_special, ids)) == count
        assert tokenizer.decode(ids) == text


def test_user_defined_tokens_match_in_ordinary_text():
    tokenizer = from_gguf(byte_level_metadata(user_defined=("<think>", "llo")))
    assert strings(tokenizer, tokenizer.encode("hello<think>")) == ["he", "llo", "<think>"]
    assert not tokenizer.is_special(tokenizer.encode("<think>")[0])


@pytest.mark.parametrize(
    ("add_bos", "add_eos", "expected"),
    [(None, None, "hello"), (True, None, "<|im_start|>hello"), (True, True, "<|im_start|>hello<|im_end|>")],
)
def test_bos_and_eos_are_added_as_the_metadata_says(add_bos, add_eos, expected):
    tokenizer = from_gguf(byte_level_metadata(add_bos_token=add_bos, add_eos_token=add_eos))
    assert tokenizer.decode(tokenizer.encode("hello")) == expected
    assert tokenizer.decode(tokenizer.encode("hello", add_special=False)) == "hello"


@pytest.mark.parametrize("kind", ["llama-bpe", "tekken"])
def test_kinds_that_add_bos_unless_told_otherwise(kind):
    assert len(from_gguf(byte_level_metadata(pre=kind)).encode("")) == 1
    assert from_gguf(byte_level_metadata(pre=kind, add_bos_token=False)).encode("") == []


def test_end_of_generation_ids_are_those_named_and_those_known_by_name():
    metadata = byte_level_metadata(special=[*CHATML, "<|eot_id|>", "<end_of_turn>", "<|user|>", "<x>"])
    tokens = metadata["tokenizer.ggml.tokens"]
    metadata["tokenizer.ggml.eot_token_id"] = tokens.index("<x>")
    ends = {tokens[id] for id in from_gguf(metadata).eos_token_ids}
    assert ends == {"<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<end_of_turn>", "<x>"}


def test_an_end_name_that_is_ordinary_text_is_no_end():
    tokenizer = from_gguf(byte_level_metadata(user_defined=("</s>",)))
    assert tokenizer.encode("</s>")[0] not in tokenizer.eos_token_ids


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        ("gpt-2", "I'll pay  1234 €!!\n\n x", ["I", "'ll", " pay", " ", " 1234", " €!!", "\n\n", " x"]),
        ("smollm", "a 1234", ["a", " ", "1", "2", "3", "4"]),
        ("llama-bpe", "I'LL 12345!!\n\n x", ["I", "'LL", " ", "123", "45", "!!\n\n", " x"]),
        ("qwen2", "I'LL 123!!\n\n x", ["I", "'LL", " ", "1", "2", "3", "!!\n\n", " x"]),
        ("tekken", "HelloWorld I'll 12 a/b\n", ["Hello", "World", " I", "'ll", " ", "1", "2", " a", "/b", "\n"]),
    ],
)
def test_words_of_each_kind(kind, text, words):
    tokenizer = from_gguf(byte_level_metadata(pre=kind))
    pieces = tokenizer._vocabulary.encoder.pipeline.pre_tokenizer.pre_tokenize_str(text)
    assert [text[start:end] for _, (start, end) in pieces] == words


def test_qwen2_normalises_to_nfc():
    tokenizer = from_gguf(byte_level_metadata(pre="qwen2"))
    assert tokenizer.encode("e\u0301") == tokenizer.encode("é")
    assert tokenizer.decode(tokenizer.encode("e\u0301")) == "é"


def test_llama_bpe_takes_whole_words_whatever_the_merges_say():
    metadata = byte_level_metadata(pre="llama-bpe", add_bos_token=False)
    metadata["tokenizer.ggml.tokens"].append("xyz")
    metadata["tokenizer.ggml.token_type"] = np.append(metadata["tokenizer.ggml.token_type"], np.int32(NORMAL))
    assert strings(from_gguf(metadata), from_gguf(metadata).encode("xyz")) == ["xyz"]


@pytest.mark.parametrize("kind", ["default", "smaug-bpe", "", "deepseek-llm", None])
def test_an_unknown_pre_tokenizer_is_refused_by_name(kind):
    with pytest.raises(UnsupportedModel, match=repr(kind or "")):
        from_gguf(byte_level_metadata(pre=kind))


@pytest.mark.parametrize("model", ["bert", "t5", "rwkv", "no_vocab", None])
def test_an_unknown_model_is_refused_by_name(model):
    with pytest.raises(UnsupportedModel, match=repr(model)):
        from_gguf(byte_level_metadata(model=model))


@pytest.mark.parametrize("kind", [CONTROL, UNUSED])
def test_merges_cannot_reach_a_closed_token(kind):
    """A hostile file could list the merges of a control token's text."""
    metadata = byte_level_metadata(special=["x"], merges=["h e"])
    metadata["tokenizer.ggml.tokens"][-1] = "hex"
    metadata["tokenizer.ggml.merges"].append("he x")
    metadata["tokenizer.ggml.token_type"][-1] = kind
    with pytest.raises(FormatError, match="hex"):
        from_gguf(metadata)


def test_sentencepiece_merges_by_score_with_byte_fallback_and_a_leading_space():
    pieces = [("ab", -1.0, NORMAL), ("bc", -2.0, NORMAL), ("▁a", -3.0, NORMAL), ("abc", -4.0, NORMAL), *LETTERS]
    tokenizer = from_gguf(sentencepiece_metadata(pieces))
    assert strings(tokenizer, tokenizer.encode("abc a é")) == ["<s>", " ", "abc", " a", " ", "\\xc3", "\\xa9"]
    for text in ("abc a é", " a", "  a", "", " ", "\n"):
        assert tokenizer.decode(tokenizer.encode(text, add_special=False)) == text
        assert tokenizer.decode(tokenizer.encode(text), skip_special=True) == text


def test_sentencepiece_without_a_leading_space():
    tokenizer = from_gguf(sentencepiece_metadata(LETTERS, add_space_prefix=False))
    assert strings(tokenizer, tokenizer.encode("a b")) == ["<s>", "a", " ", "b"]
    assert tokenizer.decode(tokenizer.encode(" a", add_special=False)) == " a"


def test_sentencepiece_user_defined_pieces_match_marked_spaces_and_are_not_merged():
    pieces = [("  ", -1000.0, USER_DEFINED), ("\n\n", -1000.0, USER_DEFINED), ("▁a", -1.0, NORMAL), *LETTERS]
    tokenizer = from_gguf(sentencepiece_metadata(pieces, add_space_prefix=False, add_bos_token=False))
    assert strings(tokenizer, tokenizer.encode("b   a\n\n")) == ["b", "  ", " a", "\n\n"]
    assert tokenizer.decode(tokenizer.encode("b  a")) == "b  a"


def test_control_and_unused_pieces_are_not_merge_results():
    pieces = [("ab", 0.0, CONTROL), ("cd", 0.0, UNUSED), *LETTERS]
    tokenizer = from_gguf(sentencepiece_metadata(pieces, add_space_prefix=False, add_bos_token=False))
    assert strings(tokenizer, tokenizer.encode("abcd")) == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"tokens": None}, "tokens"),
        ({"tokens": []}, "tokens"),
        ({"tokens": ["a", "a"], "token_type": np.full(2, 1, np.int32)}, "'a' twice"),
        ({"token_type": None}, "token_type"),
        ({"token_type": np.zeros(270, np.float32)}, "token_type"),
        ({"token_type": np.full(270, 9, np.int32)}, "1 to 6"),
        ({"token_type": np.full(270, 6, np.int32)}, "byte token"),
        ({"token_type": np.full(7, 1, np.int32)}, "token_type"),
        ({"merges": None}, "merges"),
        ({"merges": ["a"]}, "'a'"),
        ({"merges": ["a b c"]}, "'a b c'"),
        ({"merges": ["q q"]}, "merges|refused"),
        ({"merges": ["nope nope"]}, "nope"),
        ({"bos_token_id": 270}, "270"),
        ({"eos_token_id": -1}, "-1"),
        ({"eos_token_id": True}, "eos_token_id"),
        ({"eos_token_id": 1.5}, "eos_token_id"),
        ({"add_bos_token": 1}, "add_bos_token"),
        ({"add_bos_token": True, "bos_token_id": None}, "bos_token_id"),
        ({"pre": 5}, "pre"),
        ({"chat_template": 7}, "chat_template"),
    ],
)
def test_damaged_metadata_is_refused(changes, what):
    with pytest.raises(FormatError, match=what):
        from_gguf(byte_level_metadata(**changes))


@pytest.mark.parametrize("score", [np.nan, np.inf, -np.inf])
def test_scores_must_be_finite(score):
    with pytest.raises(FormatError, match="scores"):
        from_gguf(sentencepiece_metadata([("a", score, NORMAL)]))


def test_scores_of_another_type_are_refused():
    metadata = sentencepiece_metadata(LETTERS)
    metadata["tokenizer.ggml.scores"] = metadata["tokenizer.ggml.scores"].astype(np.int32)
    with pytest.raises(FormatError, match="scores"):
        from_gguf(metadata)


@pytest.mark.parametrize("name", ["remove_extra_whitespaces", "precompiled_charsmap"])
def test_sentencepiece_that_rewrites_text_is_refused(name):
    with pytest.raises(UnsupportedModel, match=name):
        from_gguf(sentencepiece_metadata(LETTERS, **{name: True}))


@pytest.mark.parametrize("id", [-1, 270, 2**31, 2**64, 10**400])
def test_ids_out_of_range_are_named(id):
    tokenizer = chatml_tokenizer()
    for use in (lambda: tokenizer.decode([1, id]), lambda: tokenizer.token_bytes(id), lambda: tokenizer.is_special(id)):
        with pytest.raises(InvalidParameter, match=str(id)[:40]):
            use()


@pytest.mark.parametrize("ids", [["a"], [1.0], [None], [[1]]])
def test_ids_of_another_type_are_refused(ids):
    with pytest.raises(InvalidParameter, match="integers"):
        chatml_tokenizer().decode(ids)


def test_numpy_ids_are_fine():
    tokenizer = chatml_tokenizer()
    assert tokenizer.decode(np.array(tokenizer.encode("hello"), np.int32)) == "hello"


def test_invalid_text_is_replaced():
    tokenizer = chatml_tokenizer()
    for text, expected in [
        ("a\ud800b", "a\ufffdb"),
        ("\ud83d\ude00", "😀"),
        (b"a\xffb", "a\ufffdb"),
        (b"\xe2\x82", "\ufffd"),
        ("\x00", "\x00"),
    ]:
        assert tokenizer.decode(tokenizer.encode(text)) == expected


def test_undecodable_bytes_are_replaced():
    tokenizer = chatml_tokenizer()
    ids = tokenizer.encode("é€")
    assert tokenizer.decode(ids[:1]) == "\ufffd"
    assert tokenizer.decode([*ids[:1], *tokenizer.encode("a")]) == "\ufffda"


def test_a_text_beyond_the_limit_is_refused():
    for text in ("a" * (MAX_TEXT_NBYTES + 1), "é" * (MAX_TEXT_NBYTES // 2 + 1), b"a" * (MAX_TEXT_NBYTES + 1)):
        with pytest.raises(InvalidParameter, match="bytes"):
            chatml_tokenizer().encode(text)


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "llama-bpe", "qwen2", "tekken"])
@pytest.mark.parametrize("unit", ["a", " ", "\n", "1", "Aa", "é", "'s", "\u0301", " \n"])
def test_time_is_linear_in_the_length_of_one_word(pre, unit):
    tokenizer = from_gguf(byte_level_metadata(pre=pre))
    text = unit * (100_000 // len(unit)) + "!"
    begin = time.perf_counter()
    tokenizer.encode(text)
    assert time.perf_counter() - begin < 3  # takes 0.1 s; quadratic would take minutes
