"""Texts that tokenizers get wrong: hand-written ones, and seeded mixtures of the same ingredients.

The goldens are ids of exactly this list, in this order; `digest` guards it.
"""

from __future__ import annotations

import hashlib
import random

SEED = 20240917
NUM_MIXED = 1700

_SPECIAL = [
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<repo_name>", "<file_sep>", "<bos>", "<eos>",
    "<unk>", "<pad>", "<mask>", "<start_of_turn>", "<end_of_turn>", "<unused0>", "<unused99>",
    "[multimodal]", "<start_of_image>", "<|start_story|>", "<|end_story|>", "<s>", "</s>", "<0x0A>",
    "<0xFF>", "<|", "|>", "<|im_", "_end|>", "<|im_end|", "|im_end|>",
]  # fmt: skip
_WORDS = [
    "the", " The", "hello", "HELLO", " world", "don't", "I'll", "we've", "they're", "it's", "'s",
    "'S", " 'll", "naïve", "café", "cafe\u0301", "Straße", "ﬁnance", "ǅ", "İstanbul", "ıI", "Ωmega",
    "привет", " мир", "Ελλάδα", "שלום", "مرحبا", "بِسْمِ", "नमस्ते", "สวัสดี", "ខ្មែរ", "தமிழ்",
    "한국어", "안녕하세요", "日本語", "中文字符", "漢字かな交じり文", "繁體", "𠮷野家", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "ｆｕｌｌｗｉｄｔｈ",
    "antidisestablishmentarianism", "aaaaaaaaaaaaaaaaaaaaaaaa", "abababababababab",
    "ababcabcdabcde", "xXxXxX", "zzz", "qwrtp",
]  # fmt: skip
_MARKS = [
    "👍", "👍🏽", "👩‍👩‍👧‍👦", "👨🏿‍🚀", "🏳️‍🌈", "🇩🇪", "🇺🇸🇺🇸", "❤️", "☠︎", "e\u0301\u0323\u0328",
    "Z\u0351\u036b\u0343\u036a\u0302", "\u0301", "\u200d", "\u200b", "\u200e\u200f", "\u202e",
    "\u2066x\u2069", "\ufeff", "\ufffd", "\ufffe", "\u00ad", "\u034f", "…", "—", "«", "»", "„“",
    "‘’", "¿", "№", "½", "²³", "Ⅷ", "①", "٠١٢٣", "१२३", "▁", "▁▁", "▁the", "Ġ", "Ċ", "ĉ",
    "\U000e0001", "\U0010ffff",
]  # fmt: skip
_SPACES = [
    " ", "  ", "   ", "    ", "        ", " " * 17, " " * 33, "\n", "\n\n", "\n\n\n", "\n" * 9,
    "\n" * 33, "\t", "\t\t", "\t" * 9, "\r", "\r\n", "\r\n\r\n", " \n", "\n ", " \n ", "\t \t",
    "\u00a0", "\u3000", "\u2003", "\u2028", "\x0b", "\x0c", "\x85", "\u1680",
]  # fmt: skip
_NUMBERS = [
    "0", "1", "12", "123", "1234", "12345678", "3.14159", "-1", "1,000,000", "1e-10", "0x1F600",
    "2024-01-31T23:59:59Z", "€1.99", "50%", "1/2", "+49 30 123456", "192.168.0.1", "::1", "1_000",
    "v1.2.3", "#42", "x2y3z4",
]  # fmt: skip
_CODE = [
    "def f(x: int) -> str:\n    return f\"{x!r:>10}\"\n",
    "for (int i = 0; i < n; ++i) { a[i] += b[i]; }\n", "SELECT * FROM t WHERE a='b';",
    "<div class=\"x\">&nbsp;</div>", "\\begin{equation} \\frac{1}{2} \\end{equation}",
    "#include <stdio.h>\n", "x = {'a': [1, 2], \"b\": None}", "//// ---- ==== ####", "!!!???...",
    "(((())))", "a->b::c<d>&&e||!f", "`code`", "```python\nprint('hi')\n```", "$PATH:/usr/bin",
    "C:\\Windows\\", "https://example.org/a%20b?q=1&r=%C3%A9#frag", "user.name+tag@example.com",
    "{{ content }}", "{% if x %}", "__init__", "camelCaseWord", "SCREAMING_SNAKE",
    "kebab-case-word", "\x1b[31mred\x1b[0m", "if(!x)return;", "\tif\t(x)\t{\n\t\treturn;\n\t}\n",
]  # fmt: skip
_ODD = [
    "", "\x00", "a\x00b", "\x01\x02\x03", "\x04\x06\x13\x14\x16\x1d", "\x7f", "\x80\x9f", "\ud800",
    "\udc00x", "a\udfff", "\ud83d\ude00", "\ud83d",
]  # fmt: skip
_BYTES = [
    b"\xff", b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98", b"\x80abc", b"ok \xc0\xaf", b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80", b"caf\xe9 au lait",
]  # fmt: skip

_RANGES = [
    (0x20, 0x7F), (0x00, 0x20), (0x80, 0x250), (0x300, 0x370), (0x370, 0x530), (0x590, 0x700),
    (0x900, 0xD80), (0xE00, 0xE80), (0x1100, 0x1200), (0x1E00, 0x2070), (0x2100, 0x2800),
    (0x3040, 0x3100), (0x4E00, 0x9FFF), (0xAC00, 0xD7A4), (0xE000, 0xE010), (0xFB00, 0xFE10),
    (0xFF00, 0xFFF0), (0x1D400, 0x1D800), (0x1F300, 0x1FAFF), (0x20000, 0x20100),
]  # fmt: skip


def hard_strings() -> list[str | bytes]:
    """At least 2,000 texts, always the same."""
    pools = [_SPECIAL, _WORDS, _MARKS, _SPACES, _NUMBERS, _CODE]
    texts: list[str | bytes] = [text for pool in (*pools, _ODD) for text in pool]
    texts += (
        [" " * n for n in range(1, 40)] + ["\n" * n for n in range(1, 40)] + ["a" + " " * n + "b" for n in range(1, 12)]
    )
    texts += [f" {special} x{special}\n" for special in _SPECIAL]
    chance = random.Random(SEED)
    for index in range(NUM_MIXED):
        chosen = pools if index % 4 else [chance.choice(pools)]
        texts.append("".join(chance.choice(chance.choice(chosen)) for _ in range(chance.randint(2, 14))))
    for _ in range(150):
        low, high = chance.choice(_RANGES)
        texts.append("".join(chr(chance.randrange(low, high)) for _ in range(chance.randint(1, 40))))
    for _ in range(150):
        texts.append("".join(chr(chance.randrange(*chance.choice(_RANGES))) for _ in range(chance.randint(1, 40))))
    texts += _BYTES
    texts += [bytes(chance.randrange(256) for _ in range(chance.randint(1, 30))) for _ in range(60)]
    return texts


def digest(texts: list[str | bytes]) -> str:
    """SHA-256 over all texts, each with its length."""
    state = hashlib.sha256()
    for text in texts:
        data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        state.update(len(data).to_bytes(4, "little") + data)
    return state.hexdigest()
