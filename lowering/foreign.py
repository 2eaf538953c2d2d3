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
from xdsl.ir import Block, Operation, SSAValue
from xdsl.utils.exceptions import ParseError

from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.shard import GridOp
from autopar.dialects.spelling import did_you_mean
from autopar.dialects.text import IRParser, IRPrinter

from .grid_disguise import disguised_text, text_needs_disguise
from .verify import verify_op

FOREIGN_DIALECTS = ("shard", "mesh", "tosa", "linalg", "autopar")
"""Dialects that we read and print ourselves."""

_RESULTS = r"(?:%[\w$.\-]+(?::\d+)?\s*,\s*)*%[\w$.\-]+(?::\d+)?\s*=\s*"
_NAMES = "|".join(FOREIGN_DIALECTS)
_CUSTOM = re.compile(
    rf'(?P<results>{_RESULTS})?(?<![\w.#!@$"\-])(?:{_NAMES})\.[a-z_]\w*(?![\w.])(?!\s*[=,}}\]>])'
)
_GENERIC = re.compile(
    rf'^[ \t]*(?P<statement>(?:{_RESULTS})?"(?P<name>(?:{_NAMES})\.[a-z_]\w*)"\()', re.MULTILINE
)
_OP_NAME = re.compile(r"[a-z_]\w*\.[a-z_]\w*")
_ALIAS = re.compile(r"^[#!][\w$.\-]+\s*=", re.MULTILINE)
_BLANKED = re.compile(r'"(?:[^"\\\n]|\\.)*"|//[^\n]*')


def blank(text: str) -> str:
    """The text with the contents of strings and comments replaced by spaces."""
    return _BLANKED.sub(lambda match: '"' + " " * (len(match[0]) - 1), text)


def has_foreign_syntax(text: str) -> bool:
    """Whether the text holds statements in the custom form of a foreign dialect."""
    return any(name + "." in text for name in FOREIGN_DIALECTS) and (
        _CUSTOM.search(blank(text)) is not None
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


def _blocks(op: Operation) -> Iterator[Block]:
    """The blocks inside an operation, at every depth."""
    for nested in op.walk():
        for region in nested.regions:
            yield from region.blocks


def _print(
    op: Operation, names: dict[SSAValue, str], *, generic: bool, prefix: str = "inner"
) -> str:
    """The statement without its results, operands under their names in the text."""
    stream = StringIO()
    printer = IRPrinter(
        stream, print_generic_format=generic, print_properties_as_attributes=generic
    )
    # values inside regions get names that nothing outside has: MLIR forbids shadowing
    inner = [value for block in _blocks(op) for value in block.args]
    inner += [value for block in _blocks(op) for nested in block.ops for value in nested.results]
    named = {value: f"{prefix}_{index}" for index, value in enumerate(inner)}
    printer._ssa_values.update(names | named)  # pyright: ignore[reportPrivateUsage]
    if generic:
        printer.print_string(f'"{op.name}"')
        printer.print_op_with_default_format(op)
    else:
        printer.print_string(op.name)
        op.print(printer)
    return stream.getvalue()


def to_generic(context: Context, text: str, filename: str) -> str:
    """The text with every foreign statement in generic form."""
    blanked = blank(text)
    disguise = text_needs_disguise(text)
    try:
        parser = _StatementParser(context, text, filename)
        parser.read_aliases(blanked)
    except ParseError as error:
        raise parse_error(error) from None
    parts: list[str] = []
    position = 0
    statements = [(m.start(), len(m["results"] or "")) for m in _CUSTOM.finditer(blanked)]
    if disguise:  # grids in generic form too
        generic = (m for m in _GENERIC.finditer(text) if m["name"] == "shard.grid")
        statements = sorted(statements + [(m.start("statement"), 0) for m in generic])
    for start, results in statements:
        if start < position:
            continue
        try:
            op, end, names = parser.statement(start)
        except ParseError as error:
            name = _OP_NAME.match(text, start + results)
            if name is not None and issubclass(context.get_op(name[0]), UnregisteredOp):
                raise _refused(parser, filename, start, _unknown(context, name[0])) from None
            raise parse_error(error) from None
        except Exception as error:
            message = f"this operation cannot be read: {error}"
            raise _refused(parser, filename, start, message) from None
        if isinstance(op, UnregisteredOp):
            continue
        if disguise and isinstance(op, GridOp):
            op.location = _place(parser, filename, start)
            verify_op(op)  # nobody does once it is disguised
            statement = disguised_text(op)
        else:
            statement = _print(op, names, generic=True, prefix=f"inner{start}")
        newlines = "\n" * text.count("\n", start, end)
        parts += [text[position : start + results], statement, newlines]
        position = end
    return "".join([*parts, text[position:]])


def _refused(parser: _StatementParser, filename: str, offset: int, message: str) -> DiagnosticError:
    return DiagnosticError(_place(parser, filename, offset), message)


def _place(parser: _StatementParser, filename: str, offset: int) -> FileLineColLoc:
    return FileLineColLoc(StringAttr(filename), *map(IntAttr, parser.position_of(offset)))


def _unknown(context: Context, name: str) -> str:
    dialect = name.partition(".")[0] + "."
    known = [op.name for op in context.loaded_ops if op.name.startswith(dialect)]
    return f"'{name}' op is not known{did_you_mean(name, known)}"


def to_custom(context: Context, text: str) -> str:
    """The text that jaxlib printed with every foreign statement in its own syntax.

    A statement that xDSL cannot read, or whose regions it would print, stays as it is.
    """
    parts: list[str] = []
    position = 0
    whole: _StatementParser | None = None
    for match in _GENERIC.finditer(text):
        start = match.start("statement")
        if start < position:
            continue
        line_end = text.find("\n", start)
        line = text[start : len(text) if line_end < 0 else line_end]
        offset = 0
        if line.endswith("({"):  # with regions: read on, in a parser of the whole text
            if whole is None:
                whole = _StatementParser(context, text)
                whole.read_aliases(text)
            parser, offset = whole, start
        else:
            parser = _StatementParser(context, line)
        try:
            op, end, names = parser.statement(offset)
        except (ParseError, DiagnosticError):
            continue
        if isinstance(op, UnregisteredOp) or type(op).print is Operation.print:
            continue
        statement = _print(op, names, generic=False)
        if "\n" in statement:
            continue
        end += start - offset
        parts += [text[position : match.start("name") - 1], statement]
        position = end
    return "".join([*parts, text[position:]])


def parse_error(error: ParseError) -> DiagnosticError:
    """Our error for xDSL's parse error."""
    from autopar.dialects.text import parse_error_text

    name, line, column, message = parse_error_text(error)
    return DiagnosticError(
        FileLineColLoc(StringAttr(name), IntAttr(line), IntAttr(column)), message
    )
