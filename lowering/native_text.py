"""What jaxlib's bindings do not tell of a module's objects, read from their text."""

from __future__ import annotations

import re
from typing import Any

from xdsl.context import Context
from xdsl.ir import Attribute

from autopar.dialects.strings import unescaped
from autopar.dialects.text import bracketed, mlir_attributes

Native = Any
"""An object of jaxlib's MLIR bindings (they have no usable types across versions)."""

_QUOTED = r'"((?:[^"\\]|\\.)*)"'
_STRING = re.compile(_QUOTED)
_OP = re.compile(rf"[ \t]*(?:%[^\"=]*= )?{_QUOTED}\([^()]*\)")
"""The beginning of an op in generic form: name and operands."""


def string_in(native: Native) -> str:
    """The first string in an object's text.

    Slow (25 us), but where a string is not UTF-8, jaxlib's bindings end the process when they are
    asked for the name of a location, file, op or attribute.
    """
    match = _STRING.search(str(native))
    return "" if match is None else unescaped(match[1])


def op_name(op: Native) -> str:
    """The name of an operation, which may be other than UTF-8."""
    match = _OP.match(generic_text(op))
    assert match is not None
    return unescaped(match[1])


def is_known(context: Native, name: str) -> bool:
    """Whether jaxlib knows an op."""
    # it must not be asked of what is not UTF-8
    return name.isascii() and context.is_registered_operation(name)


def generic_text(op: Native) -> str:
    """One operation in generic form, without its regions."""
    return op.get_asm(print_generic_op_form=True, skip_regions=True, use_local_scope=True)


def attributes_in_text(
    context: Context, text: str
) -> tuple[dict[str, Attribute], dict[str, Attribute]]:
    """Properties and attributes in the generic form of one operation, without its regions."""
    match = _OP.match(text)
    assert match is not None
    properties: dict[str, Attribute] = {}
    attributes: dict[str, Attribute] = {}
    for part in bracketed(text[match.end() :]):
        if part.startswith("<"):
            properties = mlir_attributes(context, part[1:-1].strip()[1:-1])
        elif part.startswith("{"):  # else successors or regions
            attributes = mlir_attributes(context, part[1:-1])
    return properties, attributes


def unknown_ops(module: Native) -> list[str]:
    """The first line (up to the regions) of each op that jaxlib does not know, in generic form;
    none if none of them has properties, which stand there."""
    # where all else is pretty, nearly nothing but these has `<{`
    if "<{" not in module.get_asm(large_elements_limit=1, assume_verified=True):
        return []
    text = module.get_asm(print_generic_op_form=True, use_local_scope=True, assume_verified=True)
    lines: list[str] = []
    known: dict[str, bool] = {}
    for line in text.split("\n"):
        match = _OP.match(line)
        if match is None:
            continue
        name = match[1]
        if name not in known:
            known[name] = is_known(module.context, unescaped(name))
        if not known[name]:
            lines.append(line)
    return lines


def properties_in_text(context: Context, line: str) -> dict[str, Attribute]:
    """The properties in the first line of an op in generic form."""
    return attributes_in_text(context, line)[0]
