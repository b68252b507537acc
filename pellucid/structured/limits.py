"""What a schema, expression or grammar may hold, checked before anything is compiled, and what compiling may cost.

Measured with llguidance 1.9.1 on one core of an AMD Zen 3: at these limits nothing takes more than about a second or
150 MB. tests/structured/test_hostile_grammars.py holds it to a few times that, on any machine.
"""

from __future__ import annotations

from typing import Any

COMPILE_SECONDS = 2.0
"""From the moment a request asks until its grammar is ready, waiting for a thread included."""

MAX_JSON_DEPTH = 48
MAX_JSON_NODES = 20_000
MAX_DEFINITIONS = 1_000
MAX_ENUM = 4_096
MAX_PROPERTIES = 1_000
"""Of one object."""
MAX_LENGTH = 20_000
"""minLength and maxLength."""
MAX_ITEMS = 2_000
"""minItems, maxItems, minProperties and maxProperties."""
MAX_NUMBER = 2**53
MIN_NUMBER = 1e-9
MAX_FACTOR = 50_000
"""multipleOf without its decimal point, and the least common multiple of those that may hold together."""
MAX_PATTERNS = 12
"""Values of pattern and format that may hold together: each doubles the work of intersecting them."""

MAX_REGEX_NBYTES = 16 << 10
MAX_REGEX_DEPTH = 40
MAX_REPEAT = 10_000
MAX_REGEX_SIZE = 20_000
"""Characters and classes of an expression when its repetitions are written out."""

MAX_GRAMMAR_NBYTES = 1 << 20
"""What is written for llguidance, with the schemas in it."""
MAX_GRAMMAR_DEPTH = 20
MAX_GRAMMAR_RULES = 2_000
MAX_GRAMMAR_SYMBOLS = 10_000

PARSER_LIMITS: dict[str, Any] = {
    "max_items_in_row": 10_000,  # one optional property takes four
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 200_000,
    "max_lexer_states": 50_000,
    "max_grammar_size": 100_000,
    "verbose_errors": False,  # the state of a parser is for no error message
}
"""llguidance's own limits, for compiling and for every token: what goes over them fails the request."""
