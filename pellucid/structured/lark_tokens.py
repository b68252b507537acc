"""The words of Lark grammars, and the terminals that `%import common` knows."""

from __future__ import annotations

import re

# In the order in which they are tried. A comment ends with its line.
TOKENS = re.compile(
    r"""
      (?P<space>(?:[ \t]|(?:\#|//)[^\n]*)+)
    | (?P<line>(?:\r?\n[ \t]*)+)
    | (?P<rule>[!?]{0,2}_?[a-z][_a-z0-9-]*)
    | (?P<terminal>_?[A-Z][_A-Z0-9-]*)
    | (?P<string>"(?:[^"\\\n]|\\.)*"i?)
    | (?P<regex>/(?:[^/\\\n]|\\.)+/[a-z]*)
    | (?P<number>[0-9]+)
    | (?P<directive>%[a-z]*)
    | (?P<sign>->|\.\.|[:|()\[\]{}*+?~,.])
    """,
    re.VERBOSE,
)
ESCAPES = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.DOTALL)
CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "0": "\0", "\\": "\\", '"': '"', "/": "/", "'": "'"}

_INTEGER = "[0-9]+"
_DECIMAL = r"([0-9]+\.[0-9]*|\.[0-9]+)"
_EXPONENT = r"[eE][+\-]?[0-9]+"
_FLOAT = f"({_INTEGER}{_EXPONENT}|{_DECIMAL}({_EXPONENT})?)"
_NUMBER = f"({_FLOAT}|{_INTEGER})"
COMMON = {
    "DIGIT": "[0-9]", "HEXDIGIT": "[0-9a-fA-F]", "INT": _INTEGER, "SIGNED_INT": rf"[+\-]?{_INTEGER}",
    "DECIMAL": _DECIMAL, "FLOAT": _FLOAT, "SIGNED_FLOAT": rf"[+\-]?{_FLOAT}", "NUMBER": _NUMBER,
    "SIGNED_NUMBER": rf"[+\-]?{_NUMBER}", "ESCAPED_STRING": r'"([^"\\\n]|\\[^\n])*"', "LCASE_LETTER": "[a-z]",
    "UCASE_LETTER": "[A-Z]", "LETTER": "[A-Za-z]", "WORD": "[A-Za-z]+", "CNAME": "[_A-Za-z][_A-Za-z0-9]*",
    "WS_INLINE": r"[ \t]+", "WS": r"[ \t\f\r\n]+", "CR": r"\r", "LF": r"\n", "NEWLINE": r"(\r?\n)+",
    "SH_COMMENT": r"#[^\n]*", "CPP_COMMENT": r"//[^\n]*", "SQL_COMMENT": r"--[^\n]*",
    "C_COMMENT": r"/\*[^*]*\*+([^/*][^*]*\*+)*/",
}  # fmt: skip
"""What `%import common.NAME` gives."""
