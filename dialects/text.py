"""Reading and writing MLIR text with xDSL, exact to the bit for constants.

`IRParser` and `IRPrinter` differ from xDSL's own: dense constants keep their bits (see
`constants`), resources become constants, function declarations keep the attributes of their
arguments and results, every operation without a `loc(…)` gets its position in the file, and
locations of the form that jaxlib prints are read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from io import StringIO
from types import MappingProxyType
from typing import Any, cast

from xdsl.context import Context
from xdsl.dialects.builtin import (
    ArrayAttr,
    DenseIntOrFPElementsAttr,
    DenseResourceAttr,
    DictionaryAttr,
    FileLineColLoc,
    Float80Type,
    Float128Type,
    FloatAttr,
    IntAttr,
    ModuleOp,
    ShapedType,
    StringAttr,
    TensorType,
    UnknownLoc,
)
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute, Data, Operation, TypeAttribute
from xdsl.irdl import irdl_attr_definition
from xdsl.parser import AttrParser, Parser
from xdsl.printer import Printer
from xdsl.utils.exceptions import ParseError
from xdsl.utils.mlir_lexer import MLIRTokenKind

from .constants import LiteralError, dense_text, parse_dense
from .diagnostics import DiagnosticError
from .strings import unescaped


class _Verbatim(Data[str]):
    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> str:
        with parser.in_angle_brackets():
            return parser.parse_str_literal()

    def print_parameter(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            printer.print_string_literal(self.data)


@irdl_attr_definition
class VerbatimAttr(_Verbatim):
    """An attribute of MLIR's that xDSL cannot read, as its text."""

    name = "autopar.verbatim"


@irdl_attr_definition
class VerbatimType(_Verbatim, TypeAttribute):
    """A type of MLIR's that xDSL cannot read, as its text."""

    name = "autopar.verbatim_type"


class IRParser(Parser):
    """xDSL's parser with exact constants and file positions."""

    _line_starts: list[int] | None = None
    blobs: Mapping[str, str] | None = MappingProxyType({})
    """The resources of the text, which constants may name; None: they stay names."""

    def position_of(self, offset: int) -> tuple[int, int]:
        """Line and column, from 1, of an offset in the text."""
        from bisect import bisect_right

        if self._line_starts is None:
            text = self.lexer.input.content
            self._line_starts = [0]
            self._line_starts += [i + 1 for i, char in enumerate(text) if char == "\n"]
        line = bisect_right(self._line_starts, offset)
        return line, offset - self._line_starts[line - 1] + 1

    def parse_optional_operation(self) -> Operation | None:
        token = self._current_token.span
        start = token.start
        try:
            operation = super().parse_optional_operation()
        except (AssertionError, AttributeError, LookupError, TypeError) as error:
            # xDSL's parsers of some operations take it for granted that nothing is missing
            self.raise_error(f"this operation cannot be read: {error}", at_position=token)
        if isinstance(operation, FuncOp) and not operation.body.blocks:
            self._read_declared_attributes(operation, start)
        if operation is not None and isinstance(operation.location, UnknownLoc):
            line, column = self.position_of(start)
            operation.location = FileLineColLoc(
                StringAttr(self.lexer.input.name), IntAttr(line), IntAttr(column)
            )
        return operation

    def _read_declared_attributes(self, func: FuncOp, start: int) -> None:
        """The argument attributes of a declaration, which xDSL's parser reads over."""
        if not self.lexer.input.content.startswith("func.func", start):
            return  # generic form
        end = self._current_token.span.start
        self._resume_from(start)
        while self._current_token.kind is not MLIRTokenKind.AT_IDENT:
            self._consume_token()
        self._consume_token()

        def attributes() -> DictionaryAttr:
            self.parse_type()
            found = self.parse_optional_dictionary_attr_dict()
            self.parse_optional_location()
            return DictionaryAttr(found)

        found = self.parse_comma_separated_list(self.Delimiter.PAREN, attributes)
        if any(entry.data for entry in found):
            func.arg_attrs = ArrayAttr(found)
        self._resume_from(end)

    def parse_dense_int_or_fp_elements_attr(self, type: Attribute | None):
        start = self._current_token.span
        if start.text != "<":
            self.raise_error("Expected '<' in dense attribute")
        body = self._parse_dialect_symbol_body()
        if type is None:
            self.parse_punctuation(":", " in dense attribute")
            type = self.parse_type()
        if not isinstance(type, TensorType):
            return self._dense_of_other_type(body, type)
        try:
            return parse_dense(body, cast(TensorType[Attribute], type))
        except LiteralError as error:
            self.raise_error(str(error), at_position=start)

    def parse_optional_builtin_int_or_float_attr(self) -> Any:
        start = self._current_token.span.start
        found = super().parse_optional_builtin_int_or_float_attr()
        if isinstance(found, FloatAttr):
            text = self.lexer.input.content[start : self._current_token.span.start].strip()
            if not _keeps_bits(cast("FloatAttr[Any]", found), text):
                return VerbatimAttr(text)
        return found

    def _parse_builtin_dense_resource_attr(self) -> Any:
        start = self._current_token.span
        with self.in_angle_brackets():
            name = self.parse_optional_str_literal()
            if name is None:
                name = self.parse_identifier()
        self.parse_characters(":", " in dense_resource attribute")
        type = self.parse_type()
        if not isinstance(type, ShapedType):
            self.raise_error(f"a resource needs a shaped type, not {type}", at_position=start)
        resource = DenseResourceAttr.from_params(name, type)
        try:
            return resource if self.blobs is None else resource_constant(resource, self.blobs)
        except LiteralError as error:
            self.raise_error(str(error), at_position=start)

    def _dense_of_other_type(self, body: str, type: Attribute):
        """Vectors and memrefs: the bytes of the tensor of the same shape and elements."""
        if not hasattr(type, "get_shape") or not hasattr(type, "element_type"):
            self.raise_error(f"a dense constant needs a shaped type, not {type}")
        as_tensor = TensorType(type.element_type, type.get_shape())  # pyright: ignore
        return DenseIntOrFPElementsAttr(type, parse_dense(body, as_tensor).data)  # pyright: ignore


def _keeps_bits(number: FloatAttr[Any], text: str) -> bool:
    """Whether xDSL's number, a Python float, is that of the text: narrow NaNs may not be, nor
    numbers wider than 64 bits, which xDSL cannot write either."""
    if isinstance(number.type, (Float80Type, Float128Type)):
        return False
    if math.isfinite(number.value.data):
        return True
    return str(number).lower().replace(" ", "") == text.lower().replace(" ", "")


class IRPrinter(Printer):
    """xDSL's printer with exact constants and the attributes of declarations."""

    def print_op(self, op: Operation) -> None:
        is_generic = self.print_generic_format
        if isinstance(op, FuncOp) and not op.body.blocks and (op.arg_attrs or op.res_attrs):
            self.print_generic_format = True  # the custom form of a declaration loses them
        try:
            super().print_op(op)
        finally:
            self.print_generic_format = is_generic

    def print_string_literal(self, string: str) -> None:
        self.print_bytes_literal(string.encode(errors="surrogateescape"))  # see `strings`

    def print_attribute(self, attribute: Attribute) -> None:
        if isinstance(attribute, DenseIntOrFPElementsAttr):
            dense = cast(DenseIntOrFPElementsAttr, attribute)
            self.print_string(f"dense<{dense_text(dense)}> : ")
            self.print_attribute(cast(Attribute, dense.type))
        elif isinstance(attribute, _Verbatim):
            self.print_string(attribute.data)
        else:
            super().print_attribute(attribute)


_BLOB = re.compile(r'("(?:[^"\\]|\\.)*"|[\w$.\-]+)\s*:\s*"0x([0-9a-fA-F]*)"')


def split_resources(text: str) -> tuple[str, dict[str, str]]:
    """A text without the resources at its end (`{-# dialect_resources: … #-}`), and their blobs
    in hexadecimal, by name."""
    start = text.rfind("{-#")
    if start < 0 or not text.rstrip().endswith("#-}"):
        return text, {}
    blobs = {match[1].strip('"'): match[2] for match in _BLOB.finditer(text, start)}
    return text[:start], blobs


def resource_constant(resource: DenseResourceAttr, blobs: Mapping[str, str]) -> Attribute:
    """The constant that a resource holds, as `dense<…>`. LiteralError where its bytes are not in
    the text or do not fit the type."""
    name, type = resource.resource_handle.data, resource.type
    blob = blobs.get(name)
    if blob is None:
        raise LiteralError(f"resource '{name}' is not in the module: the constant has no value")
    as_tensor = TensorType(cast(Attribute, type.element_type), type.get_shape())  # pyright: ignore
    try:  # the first four bytes are the alignment
        return DenseIntOrFPElementsAttr(type, parse_dense(f'"0x{blob[8:]}"', as_tensor).data)  # pyright: ignore
    except LiteralError as error:
        raise LiteralError(f"resource '{name}': {error}") from None


def parse_error_text(error: ParseError) -> tuple[str, int, int, str]:
    """File, line, column and message of an xDSL parse error."""
    span = error.span
    content = span.input.content
    before = content[: span.start]
    newline = b"\n" if isinstance(before, bytes) else "\n"
    line = before.count(newline) + 1  # pyright: ignore[reportArgumentType]
    column = span.start - (before.rfind(newline) + 1) + 1  # pyright: ignore[reportArgumentType]
    first = content[span.start : span.start + 1]
    message = error.msg.replace("{first_char}", str(first))  # xDSL's lexer leaves it in
    return span.input.name, line, column, message


def parse_attribute_text(context: Context, text: str) -> Attribute:
    """The attribute of a text; ParseError where it is none."""
    return IRParser(context, text).parse_attribute()


_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|->|[<>=]=|[()\[\]{}<>,=]')


def _parts(text: str, separator: str) -> Iterator[str]:
    """The parts between the separators outside brackets and strings."""
    start = depth = 0
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token in "([{<":
            depth += 1
        elif token in ")]}>":
            depth -= 1
        elif token == separator and depth == 0:
            yield text[start : match.start()].strip()
            start = match.end()
    if rest := text[start:].strip():
        yield rest


def bracketed(text: str) -> Iterator[str]:
    """The parts in brackets at the text's start, up to the first colon outside them."""
    start = end = depth = 0
    for match in _TOKEN.finditer(text):
        if match[0] in "([{<":
            if depth == 0:
                if ":" in text[end : match.start()]:
                    return
                start = match.start()
            depth += 1
        elif match[0] in ")]}>":
            depth -= 1
            if depth == 0:
                end = match.end()
                yield text[start:end]


def mlir_attributes(context: Context, text: str) -> dict[str, Attribute]:
    """The entries inside `{…}` that MLIR has printed."""
    found: dict[str, Attribute] = {}
    for entry in _parts(text, ","):
        name = next(_parts(entry, "="))
        value = entry[len(name) :].strip().removeprefix("=") or "unit"
        if name.startswith('"'):
            name = unescaped(name[1:-1])
        found[name] = mlir_attribute(context, value)
    return found


def mlir_attribute(context: Context, text: str) -> Attribute:
    """The attribute of a text that MLIR has printed; what xDSL cannot read stays as it is, and so
    do resources, which are not in the text. LiteralError where it is one of ours that is wrong:
    MLIR takes any text for an attribute of a dialect that it does not know."""
    text = text.strip()
    try:
        parser = IRParser(context, text)
        parser.blobs = None
        attribute = parser.parse_attribute()
        if parser._current_token.kind is MLIRTokenKind.EOF:  # pyright: ignore[reportPrivateUsage]
            return attribute
    except RecursionError:
        raise
    except Exception as error:
        if text.startswith("#autopar."):
            reason = error.msg if isinstance(error, ParseError) else str(error)
            raise LiteralError(f"{text} cannot be read: {reason}") from None
    if text[:1] == "[":
        return ArrayAttr([mlir_attribute(context, part) for part in _parts(text[1:-1], ",")])
    if text[:1] == "{":
        return DictionaryAttr(mlir_attributes(context, text[1:-1]))
    return VerbatimAttr(text)


def mlir_type(context: Context, text: str) -> Attribute:
    """The type of a text that MLIR has printed; what xDSL cannot read stays as it is."""
    try:
        return IRParser(context, text).parse_type()
    except RecursionError:
        raise
    except Exception:
        return VerbatimType(text)


def parse_text(context: Context, text: str, filename: str = "-") -> ModuleOp:
    """Read a module; a mistake in the text is a DiagnosticError with its position."""
    try:
        text, blobs = split_resources(text)
        parser = IRParser(context, text, filename)
        parser.blobs = blobs
        return parser.parse_module()
    except ParseError as error:
        name, line, column, message = parse_error_text(error)
        location = FileLineColLoc(StringAttr(name), IntAttr(line), IntAttr(column))
        raise DiagnosticError(location, message) from None


def print_text(op: Operation, *, generic: bool = False, locations: bool = False) -> str:
    """The text of an operation in xDSL's custom forms (or upstream's generic form)."""
    stream = StringIO()
    printer = IRPrinter(stream, print_generic_format=generic, print_debuginfo=locations)
    printer.print_op(op)
    return stream.getvalue()
