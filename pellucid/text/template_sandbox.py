"""The jinja2 environment in which chat templates run.

jinja2's immutable sandbox, set up as transformers sets it up (trim_blocks, lstrip_blocks, loop controls, the
`generation` tag, `tojson`, `raise_exception`, `strftime_now`), where every construct that can make work grow is charged
to the budget of the render (template_limits.py). Operators, calls, attributes and filters have hooks in jinja2; loops,
list displays, `~` and slices have none, so the parsed template is rewritten before it is compiled.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from pellucid.text.template_filters import charge_for_replace, charged_join, template_filters
from pellucid.text.template_limits import MAX_RANGE, Budget, LimitExceeded, charge_for_operator

FILENAME = "<chat template>"
_STR_METHODS = frozenset(
    [
        "capitalize",
        "casefold",
        "count",
        "endswith",
        "find",
        "index",
        "isalnum",
        "isalpha",
        "isascii",
        "isdecimal",
        "isdigit",
        "islower",
        "isnumeric",
        "isspace",
        "istitle",
        "isupper",
        "join",
        "lower",
        "lstrip",
        "partition",
        "removeprefix",
        "removesuffix",
        "replace",
        "rfind",
        "rindex",
        "rpartition",
        "rsplit",
        "rstrip",
        "split",
        "splitlines",
        "startswith",
        "strip",
        "swapcase",
        "title",
        "upper",
    ]
)
_REFUSED_NODES = (nodes.Extends, nodes.Block, nodes.Include, nodes.Import, nodes.FromImport)
_GLOBALS = ("dict", "namespace", "cycler", "joiner")


class _GenerationTag(Extension):
    """`{% generation %}…{% endgeneration %}` marks answers for training; here it stands for what is inside."""

    tags = {"generation"}  # noqa: RUF012 (jinja2's interface)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Refused(jinja2.TemplateError):
    """The template called `raise_exception`."""


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """Compiles and runs chat templates. Threads may share it: each render has its own budget."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, _GenerationTag],
            finalize=self._printed,
            cache_size=0,
        )
        self._local = threading.local()
        self.concat = self._concat  # type: ignore[method-assign]
        self.filters = template_filters(self.budget)
        self.filters["pellucid_made"] = lambda value: self.budget().measure(value)
        self.filters["pellucid_joined"] = lambda values: charged_join(self.budget(), "", values)
        self.globals = {name: self.globals[name] for name in _GLOBALS}
        self.globals |= {"range": _range, "raise_exception": _raise_exception, "strftime_now": self._strftime_now}

    @contextmanager
    def running(self, budget: Budget) -> Iterator[None]:
        """Everything this thread does with the environment is charged to `budget`."""
        self._local.budget = budget
        self._local.now = datetime.now()
        try:
            yield
        finally:
            del self._local.budget

    def budget(self) -> Budget:
        budget: Budget = self._local.budget
        return budget

    def tick(self) -> str:
        """Called at the start of each loop round and macro. Returns nothing to print."""
        self.budget().tick()
        return ""

    def compiled(self, tree: nodes.Template) -> jinja2.Template:
        """Rewrites `tree` so that it is charged for what it does, and compiles it."""
        code = self.compile(_Charging(self).visit(tree), filename=FILENAME)
        return jinja2.Template.from_code(self, code, dict(self.globals))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        charge_for_operator(self.budget(), operator, left, right)
        return self.budget().measure(super().call_binop(context, operator, left, right))

    def call(self, context: Context, obj: Any, *args: Any, **kwargs: Any) -> Any:
        budget = self.budget()
        budget.tick()
        owner = getattr(obj, "__self__", None)
        if isinstance(owner, str) and obj.__name__ == "join":
            return charged_join(budget, owner, *args, **kwargs)
        if isinstance(owner, str) and obj.__name__ == "replace":
            charge_for_replace(budget, owner, *args, **kwargs)
        result = super().call(context, obj, *args, **kwargs)
        return result if isinstance(result, Iterator) else budget.measure(result)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str):
            return attr in _STR_METHODS
        if isinstance(obj, int | float):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """No `str.format`: its format specifications can ask for any width. It is then refused as an attribute."""

    def _printed(self, value: Any) -> Any:
        if isinstance(value, str):
            self.budget().charge(len(value))
            return value
        return self.budget().measure(str(value))

    def _concat(self, parts: Iterable[str]) -> str:
        return charged_join(self.budget(), "", parts)

    def _strftime_now(self, format: str) -> str:
        now: datetime = self._local.now
        return now.strftime(format)


class _Charging(NodeTransformer):
    """Puts ticks into loops and macros, and measures what list displays, `~` and slices make."""

    def __init__(self, environment: jinja2.Environment) -> None:
        self._environment = environment

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        if isinstance(node, _REFUSED_NODES):
            raise jinja2.TemplateSyntaxError(f"{{% {type(node).__name__.lower()} %}} is not supported", node.lineno)
        return super().visit(node, *args, **kwargs)

    def visit_For(self, node: nodes.For) -> nodes.Node:
        return self._ticking(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        return self._ticking(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        return self._ticking(node)

    def visit_List(self, node: nodes.List) -> nodes.Node:
        return self._made(node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        return self._made(node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        return self._made(node) if node.ctx == "load" else node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        return self._made(node) if isinstance(node.arg, nodes.Slice) else self.generic_visit(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        parts = nodes.List(node.nodes, lineno=node.lineno, environment=node.environment)
        return self._filtered(parts, "pellucid_joined")

    def _made(self, node: nodes.Expr) -> nodes.Node:
        self.generic_visit(node)
        return self._filtered(node, "pellucid_made")

    def _filtered(self, node: nodes.Expr, name: str) -> nodes.Node:
        return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno, environment=node.environment)

    def _ticking(self, node: nodes.For | nodes.Macro | nodes.CallBlock) -> nodes.Node:
        self.generic_visit(node)
        call = nodes.Call(nodes.EnvironmentAttribute("tick"), [], [], None, None)
        node.body.insert(0, nodes.ExprStmt(call, lineno=node.lineno).set_environment(self._environment))
        return node


def _range(*args: int) -> range:
    result = range(*args)
    if len(result) > MAX_RANGE:
        raise LimitExceeded(f"asked for a range of {len(result):,} numbers; the limit is {MAX_RANGE:,}")
    return result


def _raise_exception(message: str) -> None:
    raise Refused(message)
