"""A chat template under a budget: what one rendering may build, in characters.

A template is a program from the model folder. transformers runs it in a sandbox that keeps it away
from the machine, but not from its memory: `'x' * 10**10` is one operation that no deadline can
interrupt. Here it runs in the same sandbox, with the same filters and globals, and everything that
can make much of little is charged to a budget before it is done.

Not known here: how long a rendering takes (that is `batch`'s to bound), and what the messages mean.
A tokenizer that has a renderer of its own, instead of a template, is left alone.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from types import FunctionType
from typing import Any, Final

from jinja2 import Environment, Template, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from ..limits import MESSAGE_LIMIT_BYTES

TEMPLATE_BUDGET_CHARS: Final = MESSAGE_LIMIT_BYTES
"""Characters that one rendering may build, those that it throws away included. No prompt can be
longer, and a template seldom builds three times what it gives."""

_ITEM_CHARS: Final = 8
"""What an entry of a list takes, in characters."""

_INTEGER_BITS: Final = 4_096
"""Longest product or power: arithmetic with longer ones takes seconds in a single operation."""

_TEMPLATES_KEPT: Final = 8
"""Compiled templates of one model: its own, and those that requests bring."""

_PERCENT_SPEC: Final = re.compile(r"%[^a-zA-Z%]*")
_BRACE_SPEC: Final = re.compile(r":[^}]*")

Compile = Callable[[str], Template]


class TemplateTooLarge(MemoryError):
    """A template wants to build more than it may."""


def bind_template_budget(tokenizer: Any) -> None:
    """Have this tokenizer of transformers, and no other, render its templates under a budget.

    Its `apply_chat_template` becomes the same code with another compiler of templates in it.
    """
    method = getattr(type(tokenizer), "apply_chat_template", None)
    render = getattr(method, "__globals__", {}).get("render_jinja_template")
    theirs = getattr(render, "__globals__", {}).get("_compile_jinja_template")
    if not (isinstance(method, FunctionType) and isinstance(render, FunctionType) and theirs):
        return
    compiler = _compiler(theirs("").environment)
    bounded = _rebound(render, "_compile_jinja_template", compiler)
    apply = _rebound(method, "render_jinja_template", bounded)
    tokenizer.apply_chat_template = functools.partial(apply, tokenizer)


def _rebound(function: FunctionType, name: str, value: object) -> FunctionType:
    """Return a copy of a function that finds `value` under a global name."""
    copy = FunctionType(
        function.__code__,
        {**function.__globals__, name: value},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _compiler(theirs: Environment) -> Compile:
    """Return a compiler like that of `theirs`; each use begins a rendering."""
    environment = BudgetEnvironment(
        trim_blocks=theirs.trim_blocks,
        lstrip_blocks=theirs.lstrip_blocks,
        extensions=[type(extension) for extension in theirs.extensions.values()],
    )
    environment.globals.update(theirs.globals)
    environment.take_filters(theirs.filters)
    compiled = functools.lru_cache(_TEMPLATES_KEPT)(environment.from_string)

    def compile_template(source: str) -> Template:
        environment.begin()
        return compiled(source)

    return compile_template


class _CodeGenerator(CodeGenerator):
    """Makes `~` an operation of the environment, as the other operators can be."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        """Write the operands as a call."""
        self.write("environment.concat_values((")
        for operand in node.nodes:
            self.visit(operand, frame)
            self.write(", ")
        self.write("))")


class BudgetEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox of transformers, in which what a template builds is counted.

    The budget is a thread's own: a rendering that was given up may still be running in another.
    """

    code_generator_class = _CodeGenerator
    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self, **options: Any) -> None:
        super().__init__(finalize=self._finalize, **options)
        self._local = threading.local()

    def begin(self) -> None:
        """Fill the budget: the next rendering of this thread begins."""
        self._local.left = TEMPLATE_BUDGET_CHARS

    def charge(self, count: int) -> None:
        """Count what is about to be built.

        Raises:
            TemplateTooLarge: The budget is spent.
        """
        left: int = getattr(self._local, "left", TEMPLATE_BUDGET_CHARS)
        if count > left:
            raise TemplateTooLarge(
                f"it builds more than {TEMPLATE_BUDGET_CHARS} characters in one rendering"
            )
        self._local.left = left - count

    def take_filters(self, filters: dict[str, Callable[..., Any]]) -> None:
        """Use these filters, with those that can make much of little counted."""
        self.filters = {
            name: self._counted(name, run) if name in _FILTERS else run
            for name, run in filters.items()
        }

    def concat(self, parts: Iterable[str]) -> str:
        """Join the output of a template, a block or a macro."""
        kept: list[str] = []
        for part in parts:
            self.charge(len(part) + 1)
            kept.append(part)
        return "".join(kept)

    def concat_values(self, values: Sequence[object]) -> str:
        """Return the values as one text: the operator `~`."""
        self.charge(size_of(values))
        return "".join(map(str, values))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Count what an operator makes, and do it."""
        self.charge(_BINARY[operator](left, right))
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Count what a method of a text makes, and call it."""
        text = getattr(obj, "__self__", None)
        if isinstance(text, str):
            name = getattr(obj, "__name__", "")
            if name == "join" and args:
                args = (list(args[0]), *args[1:])
            self.charge(len(text) + _made(name, text, [*args, *kwargs.values()]))
        return super().call(context, obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Count what `format` of a text makes."""
        run = super().wrap_str_format(value)
        if run is None:
            return None

        def counted(*args: Any, **kwargs: Any) -> str:
            text = str(value.__self__)
            self.charge(_formatted(text, "{", _BRACE_SPEC, [*args, *kwargs.values()]))
            return run(*args, **kwargs)

        return counted

    def _finalize(self, value: object) -> object:
        """Count what is about to become text; a text is counted where it is joined."""
        if not isinstance(value, str):
            self.charge(size_of(value))
        return value

    def _counted(self, name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        first = 1 if hasattr(run, "jinja_pass_arg") else 0

        @functools.wraps(run)
        def counted(*args: Any, **kwargs: Any) -> Any:
            before, values = list(args[:first]), list(args[first:])
            if name == "join" and values:
                values[0] = list(values[0])
            rest = [*values[1:], *kwargs.values()]
            self.charge(size_of(values[:1]) + _made(name, values[0] if values else "", rest))
            return run(*before, *values, **kwargs)

        return counted


def size_of(value: object) -> int:
    """Return about how many characters a value has as text; what is enough to refuse is enough."""
    size, left = 0, [value]
    while left and size <= TEMPLATE_BUDGET_CHARS:
        item = left.pop()
        if isinstance(item, str):
            size += len(item)
        elif isinstance(item, (dict, list, tuple, set, frozenset)):
            size += _ITEM_CHARS * len(item)
            if size <= TEMPLATE_BUDGET_CHARS:
                left.extend(item)
                left.extend(item.values() if isinstance(item, dict) else ())
        elif isinstance(item, Namespace):
            left.append(getattr(item, "_Namespace__attrs", None))
        else:
            size += _ITEM_CHARS
    return size


def _made(name: str, value: Any, arguments: list[Any]) -> int:
    """Return how many characters a method or filter adds to its text, at most."""
    text = value if isinstance(value, str) else ""
    largest = max((item for item in arguments if isinstance(item, int)), default=0)
    texts = sum(size_of(item) for item in arguments if isinstance(item, (str, tuple, dict)))
    match name:
        case "center" | "ljust" | "rjust" | "zfill" | "batch" | "slice":
            return largest
        case "expandtabs":
            return text.count("\t") * max(largest, 8)
        case "indent":  # by 4 where nothing is said
            return (text.count("\n") + 1) * (4 + largest + texts)
        case "tojson":
            return size_of(value) * (largest + texts)
        case "join":
            items = arguments[0] if isinstance(value, str) and arguments else value
            between = value if isinstance(value, str) else "".join(map(str, arguments[:1]))
            return size_of(items) + len(items) * len(between)
        case "replace" if len(arguments) > 1:
            return str(value).count(str(arguments[0])) * len(str(arguments[1]))
        case "wordwrap" | "translate":
            return len(text) * texts
        case "format":
            return _formatted(text, "%", _PERCENT_SPEC, arguments)
    return 0


def _formatted(text: str, mark: str, spec: re.Pattern[str], values: list[Any]) -> int:
    """Return how long a format's result can be: any field may hold everything, at any width."""
    specs = "".join(spec.findall(text))
    widths = [int(digits[:20]) for digits in re.findall(r"\d+", specs)]
    if "*" in specs or "{" in specs:
        widths += [value for value in values if isinstance(value, int)]
    return len(text) + text.count(mark) * (size_of(values) + max(widths, default=0))


def _sum_size(left: Any, right: Any) -> int:
    return _length(left) + _length(right)


def _product_size(left: Any, right: Any) -> int:
    if isinstance(left, int) and isinstance(right, int):
        return _integer_size(left.bit_length() + right.bit_length())
    for value, count in ((left, right), (right, left)):
        if isinstance(count, int):
            return _length(value) * max(count, 0)
    return 0


def _power_size(left: Any, right: Any) -> int:
    if isinstance(left, int) and isinstance(right, int):
        return _integer_size(left.bit_length() * abs(right))
    return 0


def _remainder_size(left: Any, right: Any) -> int:
    if not isinstance(left, str):
        return 0
    values = [*right] if isinstance(right, tuple) else [right]
    return _formatted(left, "%", _PERCENT_SPEC, values)


def _integer_size(bits: int) -> int:
    return 0 if bits <= _INTEGER_BITS else TEMPLATE_BUDGET_CHARS + 1


def _length(value: Any) -> int:
    if isinstance(value, (str, bytes)):
        return len(value)
    return _ITEM_CHARS * len(value) if isinstance(value, (list, tuple)) else 0


_BINARY: Final[dict[str, Callable[[Any, Any], int]]] = {
    "+": _sum_size,
    "*": _product_size,
    "**": _power_size,
    "%": _remainder_size,
}

_FILTERS: Final = frozenset(
    (
        *("batch", "center", "e", "escape", "forceescape", "format", "indent", "join", "pprint"),
        *("replace", "slice", "string", "tojson", "urlencode", "urlize", "wordwrap", "xmlattr"),
    )
)
"""What makes text of other values, or much of little."""
