"""Custom forms of dialects that jaxlib does not know, between their own syntax and the generic one.

jaxlib reads and prints StableHLO, sdy, mpmd and func; of `shard`, `mesh`, `tosa`, `linalg` and
`autopar` it reads the generic form alone. So that one text may hold all of them in their own
syntax, each foreign statement is rewritten in place: to generic before jaxlib reads a text, and
back to the dialect's own syntax after jaxlib has printed one. Lines keep their numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from io import StringIO

from xdsl.context import Context
from xdsl.dialects.builtin import FileLineColLoc, IntAttr, StringAttr, UnregisteredOp
from xdsl.ir import Operation, SSAValue
from xdsl.utils.exceptions import ParseError

from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.text import IRParser, IRPrinter

FOREIGN_DIALECTS = ("shard", "mesh", "tosa", "linalg", "autopar")
"""Dialects that we read and print ourselves."""

_RESULTS = r"(?:%[\w$.\-]+(?::\d+)?\s*,\s*)*%[\w$.\-]+(?::\d+)?\s*=\s*"
_NAMES = "|".join(FOREIGN_DIALECTS)
_CUSTOM = re.compile(
    rf'(?P<results>{_RESULTS})?(?<![\w.#!@$"\-])(?:{_NAMES})\.[a-z_]\w*(?![\w.])(?!\s*[=,}}\]>])'
)
_GENERIC = re.compile(rf'^(?P<indent>\s*)(?:{_RESULTS})?"(?:{_NAMES})\.[a-z_]\w*"\(', re.MULTILINE)
_ALIAS = re.compile(r"^[#!][\w$.\-]+\s*=", re.MULTILINE)
_BLANKED = re.compile(r'"(?:[^"\\\n]|\\.)*"|//[^\n]*')


def _blank(text: str) -> str:
    """The text with the contents of strings and comments replaced by spaces."""
    return _BLANKED.sub(lambda match: '"' + " " * (len(match[0]) - 1), text)


def has_foreign_syntax(text: str) -> bool:
    """Whether the text holds statements in the custom form of a foreign dialect."""
    return any(name + "." in text for name in FOREIGN_DIALECTS) and (
        _CUSTOM.search(_blank(text)) is not None
    )


class _StatementParser(IRParser):
    """Reads single statements out of a text; operands may be defined anywhere."""

    def statement(self, start: int) -> tuple[Operation, int, dict[SSAValue, str]]:
        """The operation at an offset, where it ends, and the names of its operands."""
        self.forward_ssa_references.clear()
        self.ssa_values.clear()
        self._resume_from(start)
        operation = self.parse_op()
        end = self._current_token.span.start
        text = self.lexer.input.content
        while end > start and text[end - 1].isspace():
            end -= 1
        names: dict[SSAValue, str] = {}
        for name, values in self.forward_ssa_references.items():
            for index, value in values.items():
                names[value] = name if index == 0 and len(values) == 1 else f"{name}#{index}"
        return operation, end, names

    def parse_optional_location(self) -> None:
        """Leaves `loc(…)` in the text, for jaxlib to read."""

    def read_aliases(self, blanked: str) -> None:
        """Attribute and type aliases (`#map = …`, `!t = …`), which statements may use."""
        for match in _ALIAS.finditer(blanked):
            self._resume_from(match.start())
            try:
                self._parse_alias_def()
            except ParseError:
                continue  # locations, and what only jaxlib reads


def _print(op: Operation, names: dict[SSAValue, str], *, generic: bool) -> str:
    """The statement without its results, operands under their names in the text."""
    stream = StringIO()
    printer = IRPrinter(
        stream, print_generic_format=generic, print_properties_as_attributes=generic
    )
    printer._ssa_values.update(names)  # pyright: ignore[reportPrivateUsage]
    if generic:
        printer.print_string(f'"{op.name}"')
        printer.print_op_with_default_format(op)
    else:
        printer.print_string(op.name)
        op.print(printer)
    return stream.getvalue()


def to_generic(context: Context, text: str, filename: str) -> str:
    """The text with every foreign statement in generic form."""
    blanked = _blank(text)
    parser = _StatementParser(context, text, filename)
    parser.read_aliases(blanked)
    parts: list[str] = []
    position = 0
    for match in _CUSTOM.finditer(blanked):
        start = match.start()
        if start < position:
            continue
        try:
            op, end, names = parser.statement(start)
        except ParseError as error:
            raise parse_error(error) from None
        except Exception as error:
            raise DiagnosticError(
                FileLineColLoc(StringAttr(filename), *map(IntAttr, parser.position_of(start))),
                str(error),
            ) from None
        if isinstance(op, UnregisteredOp):
            continue
        results = text[start : start + len(match["results"] or "")]
        newlines = "\n" * text.count("\n", start, end)
        parts += [text[position:start], results, _print(op, names, generic=True), newlines]
        position = end
    return "".join([*parts, text[position:]])


def to_custom(context: Context, text: str) -> str:
    """The text that jaxlib printed with every foreign statement in its own syntax."""
    parts: list[str] = []
    position = 0
    for start, end, line in _generic_statements(text):
        parser = _StatementParser(context, line)
        try:
            op, after, names = parser.statement(len(line) - len(line.lstrip()))
        except ParseError:
            continue
        if isinstance(op, UnregisteredOp) or type(op).print is Operation.print:
            continue
        head = line[: line.index('"')]
        statement = _print(op, names, generic=False)
        parts += [text[position:start], head, statement, line[after:]]
        position = end
    return "".join([*parts, text[position:]])


def _generic_statements(text: str) -> Iterator[tuple[int, int, str]]:
    """Foreign one-line statements in generic form."""
    for match in _GENERIC.finditer(text):
        start = match.start() + len(match["indent"]) - len(match["indent"].lstrip("\n"))
        end = text.find("\n", match.end())
        end = len(text) if end < 0 else end
        line = text[start:end]
        if not line.endswith("({"):
            yield start, end, line


def parse_error(error: ParseError) -> DiagnosticError:
    """Our error for xDSL's parse error."""
    from autopar.dialects.text import parse_error_text

    name, line, column, message = parse_error_text(error)
    return DiagnosticError(
        FileLineColLoc(StringAttr(name), IntAttr(line), IntAttr(column)), message
    )
