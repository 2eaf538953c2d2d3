"""Attributes of the dialect `sdy`, each a plain value and its text."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Generic, NamedTuple, TypeVar

from xdsl.ir import Attribute, Data, OpaqueSyntaxAttribute, SpacedOpaqueSyntaxAttribute
from xdsl.irdl import irdl_attr_definition
from xdsl.parser import AttrParser
from xdsl.printer import Printer

from ..sharding import Axes, AxisRef, DimSharding, Sharding
from ..sharding_syntax import (
    braced,
    parse_axes_in_braces,
    parse_axis_ref,
    parse_dim_sharding,
    parse_integers,
    parse_list,
    parse_sharding_of_grid,
    quoted,
    symbol,
)

# ---- Meshes --------------------------------------------------------------------------------------


class Mesh(NamedTuple):
    """Axes, and the order of devices where it is not 0, 1, 2, …"""

    axes: tuple[tuple[str, int], ...] = ()
    device_ids: tuple[int, ...] = ()

    @property
    def is_maximal(self) -> bool:
        """Whether this means one device: no axes, one id."""
        return not self.axes and len(self.device_ids) == 1

    @property
    def num_devices(self) -> int:
        return prod(size for _, size in self.axes)

    def __str__(self) -> str:
        text = "[" + ", ".join(f"{quoted(name)}={size}" for name, size in self.axes) + "]"
        if self.device_ids:
            text += f", device_ids=[{', '.join(map(str, self.device_ids))}]"
        return text


def _parse_mesh_axis(parser: AttrParser) -> tuple[str, int]:
    name = parser.parse_str_literal(" of a mesh axis")
    parser.parse_punctuation("=")
    return name, parser.parse_integer(allow_boolean=False, allow_negative=False)


@irdl_attr_definition
class MeshAttr(Data[Mesh]):
    """`#sdy.mesh<["x"=2, "y"=4], device_ids=[…]>`."""

    name = "sdy.mesh"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> Mesh:
        with parser.in_angle_brackets():
            axes = parse_list(parser, _parse_mesh_axis)
            ids: tuple[int, ...] = ()
            if parser.parse_optional_punctuation(",") is not None:
                parser.parse_keyword("device_ids")
                parser.parse_punctuation("=")
                ids = parse_integers(parser)
        return Mesh(axes, ids)

    def print_parameter(self, printer: Printer) -> None:
        printer.print_string(f"<{self.data}>")


# ---- Shardings -----------------------------------------------------------------------------------


class TensorSharding(NamedTuple):
    """A sharding on a named mesh, or on one that is written out in place."""

    sharding: Sharding
    """Unreduced axes are a partial sum. Its grid is "" where the mesh is inlined."""
    inlined_mesh: Mesh | None = None

    def __str__(self) -> str:
        s = self.sharding
        mesh = symbol(s.grid) if self.inlined_mesh is None else f"mesh<{self.inlined_mesh}>"
        text = f"{mesh}, [{', '.join(map(str, s.dims))}]"
        if s.replicated:
            text += f", replicated={braced(s.replicated)}"
        if s.partial:
            text += f", unreduced={braced(s.partial_axes)}"
        return text


def _parse_tensor_sharding(parser: AttrParser) -> TensorSharding:
    with parser.in_angle_brackets():
        if parser.parse_optional_keyword("mesh") is not None:
            mesh = MeshAttr.parse_parameter(parser)
            return TensorSharding(parse_sharding_of_grid(parser, ""), mesh)
        grid = parser.parse_symbol_name().data
        return TensorSharding(parse_sharding_of_grid(parser, grid))


@irdl_attr_definition
class TensorShardingAttr(Data[TensorSharding]):
    """`#sdy.sharding<@mesh, [{"x"}, {?}], replicated={"y"}, unreduced={"z"}>`."""

    name = "sdy.sharding"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> TensorSharding:
        return _parse_tensor_sharding(parser)

    def print_parameter(self, printer: Printer) -> None:
        printer.print_string(f"<{self.data}>")


@irdl_attr_definition
class TensorShardingPerValueAttr(Data[tuple[TensorSharding, ...]]):
    """`#sdy.sharding_per_value<[<@mesh, [{"x"}]>, <@mesh, []>]>`."""

    name = "sdy.sharding_per_value"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> tuple[TensorSharding, ...]:
        with parser.in_angle_brackets():
            return cls.parse_stripped(parser)

    def print_parameter(self, printer: Printer) -> None:
        printer.print_string("<")
        self.print_stripped(printer)
        printer.print_string(">")

    @classmethod
    def parse_stripped(cls, parser: AttrParser) -> tuple[TensorSharding, ...]:
        """Parses `[<@mesh, [{"x"}]>]`, as ops with a pretty form spell it."""
        return parse_list(parser, _parse_tensor_sharding)

    def print_stripped(self, printer: Printer) -> None:
        printer.print_string("[" + ", ".join(f"<{s}>" for s in self.data) + "]")


# ---- Lists of axes -------------------------------------------------------------------------------

ValueT = TypeVar("ValueT")


@irdl_attr_definition
class ManualAxesAttr(Data[tuple[str, ...]], OpaqueSyntaxAttribute):
    """`#sdy<manual_axes{"x", "y"}>`."""

    name = "sdy.manual_axes"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> tuple[str, ...]:
        return tuple(
            parser.parse_comma_separated_list(AttrParser.Delimiter.BRACES, parser.parse_str_literal)
        )

    def print_parameter(self, printer: Printer) -> None:
        printer.print_string("{" + ", ".join(map(quoted, self.data)) + "}")


@irdl_attr_definition
class AxisRefListAttr(Data[Axes], OpaqueSyntaxAttribute):
    """`#sdy<axis_ref_list{"x", "y":(1)2}>`."""

    name = "sdy.axis_ref_list"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> Axes:
        return parse_axes_in_braces(parser)

    def print_parameter(self, printer: Printer) -> None:
        printer.print_string(braced(self.data))


@irdl_attr_definition
class ListOfAxisRefListsAttr(Data[tuple[Axes, ...]], OpaqueSyntaxAttribute):
    """`#sdy<list_of_axis_ref_lists[{"x"}, {}]>`."""

    name = "sdy.list_of_axis_ref_lists"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> tuple[Axes, ...]:
        return parse_list(parser, parse_axes_in_braces)

    def print_parameter(self, printer: Printer) -> None:
        printer.print_string("[" + ", ".join(map(braced, self.data)) + "]")


class AllToAllParam(NamedTuple):
    """Axes that move from dimension `source` to dimension `target`."""

    axes: Axes
    source: int
    target: int

    def __str__(self) -> str:
        return f"{braced(self.axes)}: {self.source}->{self.target}"


def _parse_all_to_all_param(parser: AttrParser) -> AllToAllParam:
    axes = parse_axes_in_braces(parser)
    parser.parse_punctuation(":")
    source = parser.parse_integer(allow_boolean=False)
    parser.parse_punctuation("->")
    return AllToAllParam(axes, source, parser.parse_integer(allow_boolean=False))


@irdl_attr_definition
class AllToAllParamListAttr(Data[tuple[AllToAllParam, ...]], OpaqueSyntaxAttribute):
    """`#sdy<all_to_all_param_list[{"x"}: 0->1]>`."""

    name = "sdy.all_to_all_param_list"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> tuple[AllToAllParam, ...]:
        return parse_list(parser, _parse_all_to_all_param)

    def print_parameter(self, printer: Printer) -> None:
        printer.print_string("[" + ", ".join(map(str, self.data)) + "]")


# ---- Sharding rules ------------------------------------------------------------------------------

_LETTERS = "ijklmnopqrstuvwxyz"

DimFactors = tuple[int, ...]
TensorFactors = tuple[DimFactors, ...]


def factor_symbol(index: int) -> str:
    """i, j, …, z, z_1, z_2, …"""
    return _LETTERS[index] if index < len(_LETTERS) else f"z_{index - len(_LETTERS) + 1}"


def _parse_factors(parser: AttrParser) -> DimFactors:
    if parser.parse_optional_punctuation("*") is not None:
        return ()
    text = parser.parse_identifier(" of factors")
    factors: list[int] = []
    position = 0
    while position < len(text):
        letter = text[position]
        position += 1
        if letter == "z" and text[position : position + 1] == "_":
            end = position + 1
            while end < len(text) and text[end].isdigit():
                end += 1
            if end == position + 1:
                parser.raise_error(f"expected a number after z_ in factors {text}")
            factors.append(len(_LETTERS) - 1 + int(text[position + 1 : end]))
            position = end
        elif letter in _LETTERS:
            factors.append(_LETTERS.index(letter))
        else:
            parser.raise_error(f"expected factors from i to z, or z_1, …; found {text}")
    return tuple(factors)


def _print_factors(factors: Sequence[int]) -> str:
    return "".join(map(factor_symbol, factors)) or "*"


def _parse_tensor_factors(parser: AttrParser) -> TensorFactors:
    return parse_list(parser, _parse_factors)


def _print_tensor_factors(tensor: TensorFactors) -> str:
    return "[" + ", ".join(map(_print_factors, tensor)) + "]"


class OpShardingRule(NamedTuple):
    """How the dimensions of an op's operands and results share factors."""

    factor_sizes: tuple[int, ...]
    operands: tuple[TensorFactors, ...]
    results: tuple[TensorFactors, ...]
    reduction: tuple[int, ...] = ()
    need_replication: tuple[int, ...] = ()
    permutation: tuple[int, ...] = ()
    blocked_propagation: tuple[int, ...] = ()
    is_custom: bool = False

    def __str__(self) -> str:
        operands = ", ".join(map(_print_tensor_factors, self.operands))
        results = ", ".join(map(_print_tensor_factors, self.results))
        text = f"({operands})->({results})"
        if self.factor_sizes:
            sizes = (f"{factor_symbol(i)}={size}" for i, size in enumerate(self.factor_sizes))
            text += " {" + ", ".join(sizes) + "}"
        for kind in _FACTOR_KINDS:
            if factors := getattr(self, kind):
                text += f" {kind}={{{', '.join(map(factor_symbol, factors))}}}"
        return text + (", custom" if self.is_custom else "")


_FACTOR_KINDS = ("reduction", "need_replication", "permutation", "blocked_propagation")


@irdl_attr_definition
class OpShardingRuleAttr(Data[OpShardingRule]):
    """`#sdy.op_sharding_rule<([i, k], [k, j])->([i, j]) {i=8, j=4, k=16} reduction={k}>`."""

    name = "sdy.op_sharding_rule"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> OpShardingRule:
        def tensors() -> tuple[TensorFactors, ...]:
            return parse_list(parser, _parse_tensor_factors, AttrParser.Delimiter.PAREN)

        def size() -> int:
            expected = factor_symbol(len(sizes))
            if (found := parser.parse_identifier(" of a factor")) != expected:
                parser.raise_error(f"factor sizes stand in order: expected {expected}={found}")
            parser.parse_punctuation("=")
            sizes.append(parser.parse_integer(allow_boolean=False, allow_negative=False))
            return sizes[-1]

        sizes: list[int] = []
        kinds: dict[str, tuple[int, ...]] = {}
        with parser.in_angle_brackets():
            operands = tensors()
            parser.parse_punctuation("->")
            results = tensors()
            parser.parse_optional_comma_separated_list(AttrParser.Delimiter.BRACES, size)
            while (kind := parser.parse_optional_keyword_in(_FACTOR_KINDS)) is not None:
                parser.parse_punctuation("=")
                factors = parse_list(parser, _parse_factors, AttrParser.Delimiter.BRACES)
                kinds[kind] = tuple(factor for symbol in factors for factor in symbol)
            is_custom = parser.parse_optional_punctuation(",") is not None
            if is_custom:
                parser.parse_keyword("custom")
        return OpShardingRule(tuple(sizes), operands, results, **kinds, is_custom=is_custom)

    def print_parameter(self, printer: Printer) -> None:
        printer.print_string(f"<{self.data}>")


# ---- How propagation went (Shardy's debug option) ------------------------------------------------


class Edge(NamedTuple):
    """An axis spread from one value of an op to others (`operand-1`, `result-0`)."""

    axis: AxisRef
    source: str
    targets: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.axis} = {self.source} -> [{', '.join(self.targets)}]"


class Step(NamedTuple):
    number: int
    edges: tuple[Edge, ...]

    def __str__(self) -> str:
        return f"step-{self.number} = [{', '.join(f'{{{edge}}}' for edge in self.edges)}]"


def _parse_edge_value(parser: AttrParser) -> str:
    kind = parser.parse_identifier(" operand or result")
    parser.parse_punctuation("-")
    return f"{kind.lower()}-{parser.parse_integer(allow_boolean=False)}"


def _parse_edge(parser: AttrParser) -> Edge:
    parser.parse_punctuation("{")
    axis = parse_axis_ref(parser)
    parser.parse_punctuation("=")
    source = _parse_edge_value(parser)
    parser.parse_punctuation("->")
    targets = parse_list(parser, _parse_edge_value)
    parser.parse_punctuation("}")
    return Edge(axis, source, targets)


def _parse_step(parser: AttrParser) -> Step:
    parser.parse_punctuation("{")
    parser.parse_keyword("step")
    parser.parse_punctuation("-")
    number = parser.parse_integer(allow_boolean=False)
    parser.parse_punctuation("=")
    edges = parse_list(parser, _parse_edge)
    parser.parse_punctuation("}")
    return Step(number, edges)


@irdl_attr_definition
class PropagationEdgesAttr(Data[tuple[Step, ...]]):
    """`#sdy.propagation_edges<[{step-2 = [{"y" = operand-1 -> [result-0]}]}]>`."""

    name = "sdy.propagation_edges"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> tuple[Step, ...]:
        with parser.in_angle_brackets():
            return parse_list(parser, _parse_step)

    def print_parameter(self, printer: Printer) -> None:
        printer.print_string("<[" + ", ".join(f"{{{step}}}" for step in self.data) + "]>")


# ---- The parts of the above, standing alone ------------------------------------------------------


class _TextData(Data[ValueT], OpaqueSyntaxAttribute, Generic[ValueT]):
    """An attribute whose text is `str` of its value."""

    def print_parameter(self, printer: Printer) -> None:
        printer.print_string(str(self.data))


@irdl_attr_definition
class MeshAxisAttr(_TextData[tuple[str, int]]):
    """A named axis of a mesh and its size."""

    name = "sdy.mesh_axis"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> tuple[str, int]:
        return _parse_mesh_axis(parser)

    def print_parameter(self, printer: Printer) -> None:
        printer.print_string(f"{quoted(self.data[0])}={self.data[1]}")


@irdl_attr_definition
class SubAxisInfoAttr(_TextData[tuple[int, int]]):
    """Which part of an axis: what lies before it, and its size."""

    name = "sdy.sub_axis_info"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> tuple[int, int]:
        parser.parse_punctuation("(")
        pre = parser.parse_integer(allow_boolean=False)
        parser.parse_punctuation(")")
        return pre, parser.parse_integer(allow_boolean=False)

    def print_parameter(self, printer: Printer) -> None:
        printer.print_string(f"({self.data[0]}){self.data[1]}")


@irdl_attr_definition
class AxisRefAttr(_TextData[AxisRef]):
    """An axis of a mesh, or a part of one (`"x":(2)4`)."""

    name = "sdy.axis_ref"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> AxisRef:
        return parse_axis_ref(parser)


@irdl_attr_definition
class DimensionShardingAttr(_TextData[DimSharding]):
    """The axes of one dimension, open or closed, with its priority."""

    name = "sdy.dimension_sharding"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> DimSharding:
        return parse_dim_sharding(parser)


@irdl_attr_definition
class AllToAllParamAttr(_TextData[AllToAllParam]):
    """Axes that an all-to-all moves, and the dimensions from and to which."""

    name = "sdy.all_to_all_param"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> AllToAllParam:
        return _parse_all_to_all_param(parser)


@irdl_attr_definition
class DimMappingAttr(Data[DimFactors], SpacedOpaqueSyntaxAttribute):
    """The factors of one dimension in a sharding rule."""

    name = "sdy.dim_mapping"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> DimFactors:
        return _parse_factors(parser)

    def print_parameter(self, printer: Printer) -> None:
        printer.print_string(_print_factors(self.data))


@irdl_attr_definition
class TensorMappingAttr(_TextData[TensorFactors]):
    """The factors of each dimension of a tensor in a sharding rule."""

    name = "sdy.tensor_mapping"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> TensorFactors:
        return _parse_tensor_factors(parser)

    def print_parameter(self, printer: Printer) -> None:
        printer.print_string(_print_tensor_factors(self.data))


@irdl_attr_definition
class EdgeValueRefAttr(Data[str], SpacedOpaqueSyntaxAttribute):
    """An operand or result as the end of a propagation edge (debugging)."""

    name = "sdy.edge_value_ref"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> str:
        return _parse_edge_value(parser)

    def print_parameter(self, printer: Printer) -> None:
        printer.print_string(self.data)


@irdl_attr_definition
class AxisToPropagationDetailsAttr(_TextData[Edge]):
    """Where an axis of a sharding came from and went to (debugging)."""

    name = "sdy.axis_to_propagation_details"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> Edge:
        return _parse_edge(parser)

    def print_parameter(self, printer: Printer) -> None:
        printer.print_string(f"{{{self.data}}}")


@irdl_attr_definition
class PropagationOneStepAttr(_TextData[Step]):
    """What one step of the propagation did (debugging)."""

    name = "sdy.propagation_one_step"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> Step:
        return _parse_step(parser)

    def print_parameter(self, printer: Printer) -> None:
        printer.print_string(f"{{{self.data}}}")


ALL_ATTRIBUTES: list[type[Attribute]] = [
    AllToAllParamAttr,
    AllToAllParamListAttr,
    AxisRefAttr,
    AxisRefListAttr,
    AxisToPropagationDetailsAttr,
    DimMappingAttr,
    DimensionShardingAttr,
    EdgeValueRefAttr,
    ListOfAxisRefListsAttr,
    ManualAxesAttr,
    MeshAttr,
    MeshAxisAttr,
    OpShardingRuleAttr,
    PropagationEdgesAttr,
    PropagationOneStepAttr,
    SubAxisInfoAttr,
    TensorMappingAttr,
    TensorShardingAttr,
    TensorShardingPerValueAttr,
]
