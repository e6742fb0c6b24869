"""Interface: what an attention class's own code asks of transformers' table of attention functions.

Some classes do more than look their function up: they compare the name of the implementation with those they
know, and compute something else under any other (sparse attention of their own is left to a kernel that the
other name is taken for). Whether a class does is in its code and nowhere else.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

DenseForward = Callable[..., tuple[Tensor, Tensor | None]]
NAME_OF_IMPLEMENTATION = "_attn_implementation"


@dataclass(frozen=True)
class Interface:
    """How a class finds its attention function.

    Args:
        table: the mapping that it looks the implementation's name up in.
        eager: what it runs where the table has no such name; None where its code does not say so plainly.
        compared: the names that each comparison in its code is with; None where a comparison cannot be read.
    """

    table: Any
    eager: DenseForward | None
    compared: tuple[frozenset[str], ...] | None

    def dense(self, implementation: str) -> DenseForward:
        """What the class runs under an implementation's name."""
        return self.table.get_interface(implementation, self.eager)

    def is_alike(self, one: str, other: str) -> bool:
        """Whether the class does the same under two names, the function that it calls apart."""
        known = self.compared
        return known is not None and all((one in names) == (other in names) for names in known)


def interface_of(module: nn.Module) -> Interface | None:
    """The interface of an attention module's class; None if its code looks up no function or is missing."""
    cls = type(module)
    if cls not in _KNOWN:
        _KNOWN[cls] = _read(cls)
    return _KNOWN[cls]


_KNOWN: WeakKeyDictionary[type, Interface | None] = WeakKeyDictionary()


def _read(cls: type) -> Interface | None:
    reading = _Reading()
    for function in _methods(cls):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        except (OSError, TypeError, SyntaxError):
            reading.readable = False
            continue
        reading.names = function.__globals__
        reading.visit(tree)
    if not reading.tables:
        return None
    eager = reading.eager[0] if len(reading.eager) == 1 else None
    return Interface(reading.tables[0], eager, tuple(reading.compared) if reading.readable else None)


def _methods(cls: type) -> Iterator[FunctionType]:
    """The functions that an object of the class has beyond those of every module, as they were written."""
    for name in dir(cls):
        member = inspect.getattr_static(cls, name)
        member = getattr(member, "__func__", getattr(member, "fget", member))
        function = inspect.unwrap(member) if callable(member) else None
        if isinstance(function, FunctionType) and getattr(nn.Module, name, None) is not function:
            yield function


@dataclass
class _Reading(ast.NodeVisitor):
    names: dict[str, Any] = field(default_factory=dict)
    tables: list[Any] = field(default_factory=list)
    eager: list[Any] = field(default_factory=list)
    compared: list[frozenset[str]] = field(default_factory=list)
    readable: bool = True

    def visit_Call(self, node: ast.Call) -> None:
        function = node.func
        if not (isinstance(function, ast.Attribute) and function.attr == "get_interface" and node.args):
            return self.generic_visit(node)
        self._found(function.value, self.tables)
        for default in node.args[1:]:
            self._found(default, self.eager)
        if not _is_name_of_implementation(node.args[0]):
            self.visit(node.args[0])

    def visit_Compare(self, node: ast.Compare) -> None:
        if not _is_name_of_implementation(node.left):
            return self.generic_visit(node)
        try:
            names = ast.literal_eval(node.comparators[0])
        except ValueError:
            self.readable = False
            return
        self.compared.append(frozenset([names] if isinstance(names, str) else names))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if _is_name_of_implementation(node):
            self.readable = False
        self.generic_visit(node)

    def _found(self, node: ast.expr, those: list[Any]) -> None:
        thing = self.names.get(node.id) if isinstance(node, ast.Name) else None
        if thing is not None and thing not in those:
            those.append(thing)


def _is_name_of_implementation(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == NAME_OF_IMPLEMENTATION
