"""Text of shardings: what the attributes of `autopar` and `sdy` have in common.

The grammar is Shardy's (https://openxla.org/shardy/sharding_representation):

    axis-ref     ::= string | string `:` `(` int `)` int
    dim-sharding ::= `{` axis-ref* `?`? `}` (`p` int)?
    sharding     ::= `@` grid `,` `[` dim-sharding* `]` (`,` group)*
    group        ::= `replicated` `=` `{` axis-ref* `}`
                   | `unreduced` `=` `{` axis-ref* `}`                        (sdy)
                   | `partial` `=` `{` (kind `=` `[` axis-ref* `]`)* `}`      (autopar)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from xdsl.parser import AttrParser

from .reductions import REDUCTION_KINDS
from .sharding import Axes, AxisRef, DimSharding, Partial, Sharding

T = TypeVar("T")


def parse_axis_ref(parser: AttrParser) -> AxisRef:
    """Parses `"x"` or `"x":(pre)size`."""
    name = parser.parse_str_literal(" of a grid axis")
    if parser.parse_optional_punctuation(":") is None:
        return AxisRef(name)
    parser.parse_punctuation("(")
    pre = parser.parse_integer(allow_boolean=False, allow_negative=False)
    parser.parse_punctuation(")")
    size = parser.parse_integer(allow_boolean=False, allow_negative=False)
    if pre < 1 or size < 2:
        parser.raise_error(
            f'sub-axis "{name}":({pre}){size} needs a pre-size of at least 1 and a size of at '
            "least 2"
        )
    return AxisRef(name, pre, size)


def parse_list(
    parser: AttrParser,
    item: Callable[[AttrParser], T],
    delimiter: AttrParser.Delimiter = AttrParser.Delimiter.SQUARE,
) -> tuple[T, ...]:
    """Parses items between delimiters, separated by commas."""
    return tuple(parser.parse_comma_separated_list(delimiter, lambda: item(parser)))


def parse_integers(parser: AttrParser) -> tuple[int, ...]:
    """Parses `[0, 1]`."""
    return parse_list(parser, lambda parser: parser.parse_integer(allow_boolean=False))


def parse_axes_in_braces(parser: AttrParser) -> Axes:
    """Parses `{"x", "y":(1)2}`."""
    return parse_list(parser, parse_axis_ref, AttrParser.Delimiter.BRACES)


def parse_axes_in_brackets(parser: AttrParser) -> Axes:
    """Parses `["x", "y":(1)2]`."""
    return parse_list(parser, parse_axis_ref)


def parse_dim_sharding(parser: AttrParser) -> DimSharding:
    """Parses `{"x", "y", ?}p1`."""
    axes: list[AxisRef] = []
    is_open = False
    parser.parse_punctuation("{")
    if parser.parse_optional_punctuation("}") is None:
        while True:
            if parser.parse_optional_punctuation("?") is not None:
                is_open = True
                break
            axes.append(parse_axis_ref(parser))
            if parser.parse_optional_punctuation(",") is None:
                break
        parser.parse_punctuation("}")
    priority = None
    if (word := parser.parse_optional_identifier()) is not None:
        if word[:1] != "p" or not word[1:].isdigit():
            parser.raise_error(f"expected a priority such as p1 after a dimension, found {word}")
        priority = int(word[1:])
    return DimSharding(tuple(axes), is_open, priority)


def parse_dims(parser: AttrParser) -> tuple[DimSharding, ...]:
    """Parses `[{"x"}, {?}]`."""
    return parse_list(parser, parse_dim_sharding)


def _parse_partial_kind(parser: AttrParser) -> Partial:
    kind = parser.parse_identifier(" of a reduction")
    if kind not in REDUCTION_KINDS:
        parser.raise_error(
            f"unknown reduction kind {kind} of a partial result, expected one of "
            + ", ".join(REDUCTION_KINDS)
        )
    parser.parse_punctuation("=")
    return Partial(kind, parse_axes_in_brackets(parser))


def parse_sharding_of_grid(parser: AttrParser, grid: str) -> Sharding:
    """Parses what follows the grid: `, [dims], replicated={…}, unreduced={…} or partial={…}`."""
    parser.parse_punctuation(",")
    dims = parse_dims(parser)
    replicated: Axes = ()
    partial: tuple[Partial, ...] = ()
    while parser.parse_optional_punctuation(",") is not None:
        word = parser.parse_keyword_in(("replicated", "unreduced", "partial"))
        parser.parse_punctuation("=")
        if word == "replicated":
            replicated = parse_axes_in_braces(parser)
        elif word == "partial":
            partial = parse_list(parser, _parse_partial_kind, AttrParser.Delimiter.BRACES)
        elif axes := parse_axes_in_braces(parser):
            partial = (Partial("sum", axes),)
    return Sharding(grid, dims, replicated, partial)


def parse_sharding(parser: AttrParser) -> Sharding:
    """Parses `@mesh, [{"x"}, {}], replicated={"z"}, partial={sum = ["w"]}`."""
    return parse_sharding_of_grid(parser, parser.parse_symbol_name().data)


def braced(axes: Sequence[AxisRef]) -> str:
    """Axes as `{"x", "y":(1)2}`."""
    return "{" + ", ".join(map(str, axes)) + "}"


def quoted(name: str) -> str:
    """`name` as a string literal."""
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def symbol(name: str) -> str:
    """`name` as a symbol reference, quoted where it is no identifier."""
    if re.fullmatch(r"[A-Za-z_][\w$.]*", name):
        return "@" + name
    return "@" + quoted(name)
