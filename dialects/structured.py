"""Bases for attributes that hold plain Python values and are written in upstream's textual form.

Upstream declares such attributes with `struct(params)` (`#stablehlo.dot<lhs_batching_dimensions =
[0], …>`) or as enums (`#stablehlo<precision HIGH>`). Passes read them as Python fields.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from typing_extensions import dataclass_transform
from xdsl.ir import Attribute, Data, ParametrizedAttribute, SpacedOpaqueSyntaxAttribute
from xdsl.irdl import ParamAttrDef
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException

Dims = tuple[int, ...]


def float_text(value: float) -> str:
    """A float literal that MLIR reads back as the same double."""
    text = repr(value)
    if "e" in text:
        mantissa, exponent = text.split("e")
        return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{exponent}"
    return text


def _read_dims(parser: AttrParser) -> Dims:
    return tuple(parser.parse_comma_separated_list(parser.Delimiter.SQUARE, parser.parse_integer))


_READERS: dict[str, Callable[[AttrParser], object]] = {
    "Dims": _read_dims,
    "int": lambda parser: parser.parse_integer(),
    "bool": lambda parser: parser.parse_boolean(),
    "float": lambda parser: float(parser.parse_number()),
    "Attribute": lambda parser: parser.parse_attribute(),
}
"""How a field is read, by its annotation."""


def _print_value(printer: Printer, value: object) -> None:
    match value:
        case bool():
            printer.print_string("true" if value else "false")
        case tuple():
            printer.print_string(f"[{', '.join(map(str, value))}]")  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        case float():
            printer.print_string(float_text(value))
        case Attribute():
            printer.print_attribute(value)
        case _:
            printer.print_string(str(value))


@dataclass_transform(frozen_default=True)
class StructAttribute(ParametrizedAttribute):
    """An attribute written `#name<field = value, …>`; its fields are plain Python values.

    Subclasses only annotate fields (Dims, int, bool, float, Attribute); fields that equal their
    default are not printed, except where `print_all` is set (as upstream does).
    """

    print_all: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclasses.dataclass(frozen=True)(cls)
        # xDSL sees no parameters: generic walks over attributes treat it as a leaf
        definition = ParamAttrDef(cls.name, [])
        cls.get_irdl_definition = classmethod(lambda _: definition)  # pyright: ignore[reportAttributeAccessIssue]

    @classmethod
    def new(cls, params: Sequence[Any]) -> Any:
        return cls(*params)

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Any]:
        fields = {field.name: field for field in dataclasses.fields(cls)}
        values: dict[str, object] = {}

        def read_field() -> None:
            name = parser.parse_identifier(f" as a field of #{cls.name}")
            if name not in fields or name in values:
                problem = "duplicate" if name in values else "unknown"
                parser.raise_error(
                    f"{problem} field '{name}' in #{cls.name}, which has {', '.join(fields)}"
                )
            parser.parse_punctuation("=")
            values[name] = _READERS[str(fields[name].type)](parser)

        if parser.parse_optional_punctuation("<") and not parser.parse_optional_punctuation(">"):
            parser.parse_comma_separated_list(parser.Delimiter.NONE, read_field)
            parser.parse_punctuation(">")
        for name, field in fields.items():
            if name not in values and field.default is dataclasses.MISSING:
                parser.raise_error(f"field '{name}' of #{cls.name} is missing")
        return [values.get(name, field.default) for name, field in fields.items()]

    def print_parameters(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            first = True
            for field in dataclasses.fields(self):
                value = getattr(self, field.name)
                if not self.print_all and value == field.default:
                    continue
                printer.print_string(f"{'' if first else ', '}{field.name} = ")
                _print_value(printer, value)
                first = False


class EnumAttribute(Data[str], SpacedOpaqueSyntaxAttribute):
    """An enum, written `#dialect<mnemonic CASE>`; `data` is the case as upstream spells it."""

    cases: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> str:
        bracket = parser.parse_optional_punctuation("<")
        case = parser.parse_identifier(f" as the case of #{cls.name}")
        if case not in cls.cases:
            parser.raise_error(f"'{case}' is none of {', '.join(cls.cases)} (#{cls.name})")
        if bracket:
            parser.parse_punctuation(">")
        return case

    def print_parameter(self, printer: Printer) -> None:
        printer.print_string(self.data)

    def verify(self) -> None:
        if self.data not in self.cases:
            raise VerifyException(f"'{self.data}' is none of {', '.join(self.cases)}")
