from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from text_vocabularies import NORMAL, chatml_tokenizer, from_gguf, sentencepiece_metadata

from pellucid.errors import InvalidParameter
from pellucid.text.detokenizer import Detokenizer

BYTE_LEVEL = chatml_tokenizer()
SENTENCEPIECE = from_gguf(
    sentencepiece_metadata([("▁", -1.0, NORMAL), ("▁a", -2.0, NORMAL), ("é", -3.0, NORMAL), ("a", -4.0, NORMAL)])
)


def outputs(tokenizer, groups, **options):
    detokenizer = Detokenizer(tokenizer, **options)
    return [detokenizer.add(group) for group in groups] + [detokenizer.finish()]


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, SENTENCEPIECE], ids=["byte-level", "sentencepiece"])
@given(data=st.data())
def test_any_ids_in_any_groups_give_what_decoding_all_gives(tokenizer, data):
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=30))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(ids)), max_size=8)))
    groups = [ids[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(ids)], strict=True)]
    for skip in (False, True):
        text = "".join(outputs(tokenizer, groups, skip_special_tokens=skip))
        assert text == tokenizer.decode(ids, skip_special=skip)


@given(st.text(max_size=20))
def test_no_output_holds_part_of_a_character(text):
    text = text.encode("utf-8", "replace").decode()
    ids = BYTE_LEVEL.encode(text)
    pieces = outputs(BYTE_LEVEL, [[id] for id in ids])
    assert "".join(pieces) == text
    assert pieces[-1] == ""
    assert sum(piece.count("\ufffd") for piece in pieces) == text.count("\ufffd")


def test_a_character_appears_with_its_last_byte():
    ids = BYTE_LEVEL.encode("😀")
    assert len(ids) == 4
    assert outputs(BYTE_LEVEL, [[id] for id in ids]) == ["", "", "", "😀", ""]


def test_bytes_that_cannot_become_a_character_are_replaced_at_once_and_the_last_ones_at_the_end():
    first, *_, last = BYTE_LEVEL.encode("😀")
    (a,) = BYTE_LEVEL.encode("a")
    assert outputs(BYTE_LEVEL, [[last], [first], [a], [first]]) == ["\ufffd", "", "\ufffda", "", "\ufffd"]


def test_special_tokens_are_skipped_or_shown():
    ids = BYTE_LEVEL.encode("a<|im_end|>b", parse_special=True)
    assert outputs(BYTE_LEVEL, [ids]) == ["ab", ""]
    assert outputs(BYTE_LEVEL, [ids], skip_special_tokens=False) == ["a<|im_end|>b", ""]


def test_the_leading_space_goes_at_the_start_of_a_text_and_stays_in_a_continuation():
    ids = SENTENCEPIECE.encode("a a", add_special=False)
    assert outputs(SENTENCEPIECE, [[id] for id in ids]) == ["a", " a", ""]
    assert outputs(SENTENCEPIECE, [[id] for id in ids], continuation=True) == [" a", " a", ""]
    bos = SENTENCEPIECE.bos_token_id
    assert outputs(SENTENCEPIECE, [[bos], ids]) == ["", "a a", ""]
    assert outputs(SENTENCEPIECE, [[bos], ids], skip_special_tokens=False) == ["<s>", " a a", ""]


def test_an_id_out_of_range_is_named():
    with pytest.raises(InvalidParameter, match="99999"):
        Detokenizer(BYTE_LEVEL).add([99999])
