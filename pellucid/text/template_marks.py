"""Tells the control tokens that a chat template writes from those that a message only quotes.

Method. In the parsed template, the special tokens inside string literals and plain template text are replaced
character by character with *marks*: code points that no input contains. The marked template is rendered with the very
same messages. Whatever the template does to strings (concatenate, trim, slice, join, pass through macros), the marks
travel with the characters they stand for, so each mark in the result is a character of a special token that the
template wrote, and everything else came from somewhere else. Only runs of marks are searched for control tokens. A
user's `<|im_end|>`, whole, split over messages or completed by template text, has no marks or not enough of them.

Content itself is never changed: a template that trims, compares, indexes or lower-cases it sees what it would see
anyway. Literals that a template only compares with (`==`, `in`, `if`, tests, the text that `replace` or `split` look
for) are not marked. Should marks still change what a template does, the two renderings differ, and that is an error,
never a guess.

Some templates build tokens around a role: `'<|' + message.role + '|>'`. For special tokens that contain a role's name,
the part before it is also marked at the end of a literal and the part after it at the start of one; such a token counts
when it is found with its role between two such marked parts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from jinja2 import nodes
from jinja2.visitor import NodeTransformer

from pellucid.errors import TemplateError
from pellucid.text.special_tokens import SpecialTokenFinder
from pellucid.text.vocabulary import SpecialToken

_ROLES = ("system", "developer", "user", "assistant", "model", "tool", "function", "ipython")
_BASES = tuple(range(0x50000, 0xD0000, 0x1000))  # in planes where Unicode has assigned nothing
_LOOKUP_METHODS = frozenset(
    [
        "count",
        "endswith",
        "find",
        "index",
        "lstrip",
        "partition",
        "removeprefix",
        "removesuffix",
        "rfind",
        "rindex",
        "rpartition",
        "rsplit",
        "rstrip",
        "split",
        "startswith",
        "strip",
    ]
)
_LOOKUP_FILTERS = frozenset(
    ["attr", "groupby", "map", "reject", "rejectattr", "select", "selectattr", "sort", "sum", "unique"]
)


class Marks:
    """The marks for one set of special tokens, and how to put them in and take them out."""

    def __init__(self, special_tokens: list[SpecialToken], base: int) -> None:
        alphabet = sorted(set().union(*(token.text for token in special_tokens)))
        if len(alphabet) > _BASES[1] - _BASES[0]:
            raise TemplateError(
                f"the model's special tokens use {len(alphabet)} different characters, too many to mark"
            )
        self._mark = {ord(char): base + index for index, char in enumerate(alphabet)}
        self._unmark = {mark: char for char, mark in self._mark.items()}
        last = base + max(len(alphabet), 1) - 1
        self._runs = re.compile(f"[{chr(base)}-{chr(last)}]+")
        self._finder = SpecialTokenFinder(special_tokens)
        self._around_role = {
            (before, name, after)
            for token in special_tokens
            for role in _ROLES
            for name in (role, role.capitalize(), role.upper())
            for before, found, after in [token.text.partition(name)]
            if found and before and after
        }

    def used_in(self, texts: Iterable[str]) -> bool:
        return any(self._runs.search(text) for text in texts)

    def mark_literal(self, text: str) -> str:
        """`text` with the special tokens in it marked, and parts of one that a role may complete."""
        pieces = []
        position = 0
        for start, end, _ in self._finder.find(text):
            pieces += [text[position:start], text[start:end].translate(self._mark)]
            position = end
        marked = "".join([*pieces, text[position:]])
        for before, _, after in self._around_role:
            if marked.endswith(before):
                marked = marked[: -len(before)] + before.translate(self._mark)
            if marked.startswith(after):
                marked = after.translate(self._mark) + marked[len(after) :]
        return marked

    def unmark(self, text: str) -> tuple[str, list[tuple[int, int]]]:
        """`text` without marks, and the (start, end) of what the template wrote of special tokens."""
        for before, name, after in self._around_role:
            left, right = before.translate(self._mark), after.translate(self._mark)
            text = text.replace(left + name + right, left + name.translate(self._mark) + right)
        return text.translate(self._unmark), [match.span() for match in self._runs.finditer(text)]


def marks_for(special_tokens: list[SpecialToken], texts: list[str]) -> Marks:
    """Marks that none of `texts` contains. Raises TemplateError for texts that contain some of all of them."""
    for base in _BASES:
        marks = Marks(special_tokens, base)
        if not marks.used_in(texts):
            return marks
    raise TemplateError(
        "the messages use so many unassigned Unicode characters that none is left to mark the template with"
    )


class MarkLiterals(NodeTransformer):
    """Applies `mark` to the literals of a parsed template that may be printed."""

    def __init__(self, mark: Callable[[str], str]) -> None:
        self._mark = mark

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.TemplateData:
        node.data = self._mark(node.data)
        return node

    def visit_Const(self, node: nodes.Const) -> nodes.Const:
        if isinstance(node.value, str):
            node.value = self._mark(node.value)
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:
        return node

    def visit_Test(self, node: nodes.Test) -> nodes.Test:
        return node

    def visit_If(self, node: nodes.If) -> nodes.If:
        for field in (node.body, node.elif_, node.else_):
            field[:] = [self.visit(child) for child in field]
        return node

    def visit_CondExpr(self, node: nodes.CondExpr) -> nodes.CondExpr:
        node.expr1 = self.visit(node.expr1)
        if node.expr2 is not None:
            node.expr2 = self.visit(node.expr2)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Getitem:
        node.node = self.visit(node.node)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Pair:
        node.value = self.visit(node.value)
        return node

    def visit_Call(self, node: nodes.Call) -> nodes.Call:
        method = node.node.attr if isinstance(node.node, nodes.Getattr) else None
        node.node = self.visit(node.node)
        if method not in _LOOKUP_METHODS:
            first = 1 if method == "replace" else 0  # what `replace` looks for stays
            node.args[first:] = [self.visit(arg) for arg in node.args[first:]]
            node.kwargs[:] = [self.visit(kwarg) for kwarg in node.kwargs]
        return node

    def visit_Filter(self, node: nodes.Filter) -> nodes.Filter:
        if node.node is not None:
            node.node = self.visit(node.node)
        if node.name not in _LOOKUP_FILTERS:
            first = 1 if node.name == "replace" else 0
            node.args[first:] = [self.visit(arg) for arg in node.args[first:]]
            node.kwargs[:] = [self.visit(kwarg) for kwarg in node.kwargs]
        return node
