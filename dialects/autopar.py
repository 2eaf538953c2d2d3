"""The dialect `autopar`: shardings and strategies as attributes, constraints, reshards.

What passes work on (the compact spelling of a sharding): on function arguments and results the
attribute `autopar.sharding`, on ops `autopar.sharding = [one a result]`. The plain helpers below
read and write it; they touch no more than the attribute, for they run for every op of a program.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

from xdsl.dialects.builtin import (
    ArrayAttr,
    DenseArrayBase,
    DictionaryAttr,
    IntegerAttr,
    ModuleOp,
    ShapedType,
    StringAttr,
    i64,
)
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute, BlockArgument, Data, Dialect, Operation, OpResult, SSAValue
from xdsl.irdl import (
    AnyAttr,
    IRDLOperation,
    ParsePropInAttrDict,
    VarConstraint,
    irdl_attr_definition,
    irdl_op_definition,
    operand_def,
    prop_def,
    result_def,
    traits_def,
)
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException
from xdsl.utils.hints import isa

from .diagnostics import DiagnosticError
from .sharding import Axes, Grid, Sharding
from .sharding_syntax import parse_axes_in_brackets, parse_list, parse_sharding
from .unverified import dictionary

# ---- attributes by name --------------------------------------------------------------------------

SHARDING = "autopar.sharding"
"""How a value lies: on arguments and results of functions one, on ops a list, one a result. Made by
import-sdy, annotate-method, sharding-propagation and auto-shard; gone after
convert-shard-to-stablehlo."""
MESH = "autopar.mesh"
"""On an argument, a result or an op: the name of the sdy mesh that its sharding was written on,
where there are several. Made by import-sdy, read and removed by export-sdy."""
MESHES = "autopar.meshes"
"""On a grid: the sdy meshes that it stands for, in order. Made by import-sdy, gone after export-sdy
or convert-shard-to-stablehlo, with the grid."""
DEVICE_IDS = "autopar.device_ids"
"""On a grid: the order of devices that it was written with. Made by import-sdy."""
PARTIAL = "autopar.partial"
"""On a shard.sharding whose values are partial: the kinds of the reductions (`sum`), which upstream
has no place for. Made by shard-attributes-to-ops and convert-mesh-to-shard, gone after
shard-ops-to-attributes."""
KIND = "autopar.kind"
"""On an argument of @main: what it is, one of parameter, optimizer_state, batch, other. Made by
`parallelize` or the user; stays."""
BATCH_DIM = "autopar.batch_dim"
"""On a batch argument of @main: its batch dimension, 0 where absent. Made by `parallelize` or the
user; stays."""
NEXT = "autopar.next"
"""On an argument of @main: the result that is its next value, -1 where there is none. Made by
`parallelize`, which also marks what comes of the batch's size then; read by split-step; stays."""
WHOLE_BATCH = "autopar.whole_batch"
"""On a constant of one microbatch's program: what it is for the whole batch, where it comes of the
batch's size. Made by `parallelize`; gone after split-step."""
BATCH_DIMS = "autopar.batch_dims"
"""On a broadcast of one microbatch's program: the dimensions as long as the batch, whose elements
are a microbatch's own. Made by `parallelize`; gone after split-step."""
OWN_SIZES = "autopar.own_sizes"
"""On @main of one microbatch: its model takes another course than for the whole batch, so that not
all that comes of the batch's size is marked. Made by `parallelize`; gone after split-step."""
AGAIN = "autopar.again"
"""On an op: its operands, by index, that are brought to it once more, though earlier ops read them
so: until then they would take memory that there is not. Made by auto-shard, gone after
insert-reshards."""
PHASE = "autopar.phase"
"""On constraints, reshards and collectives: the phase of the step that gathers a parameter, those
of different phases are never merged; of reshards that are made again, each has its own. Made by
annotate-method and insert-reshards; gone after convert-shard-to-stablehlo, with the collectives."""
REDUCE_IN_LOOP = "autopar.reduce_in_loop"
"""On a loop whose accumulators are to stay sharded: partial sums are reduced in each iteration,
since sums as large as the whole would not fit (ZeRO-3). Made by annotate-method; stays."""
STRATEGY = "autopar.strategy"
"""On an op: how it is split, the grid axes of each factor of its rule. Made by insert-reshards
and auto-shard, gone after shard-partition."""
GRID = "autopar.grid"
"""On a decided module: the axes and the shape of the user's grid, as partitioning may have cut its
axes into smaller ones. Made by insert-reshards; stays, for the runtime."""
GLOBAL = "autopar.global"
"""On arguments and results of a partitioned function: the global type. Made by shard-partition,
gone after convert-shard-to-stablehlo."""
COMBINE = "autopar.combine"
"""On adjacent collectives: a number, those with the same one are lowered as one. Made by
optimize-collectives; gone after convert-shard-to-stablehlo."""
FREE_EARLY = "autopar.free_early"
"""On a function: what frees memory is to run early. Made by auto-shard, gone after free-early."""
WITHOUT = "autopar.without"
"""On a function: the collectives that its plan may not use. What is resharded then begins where the
value lies, not at a form that another op reads, where that needs one. Made by auto-shard, gone
after insert-reshards."""
LAYOUT = "autopar.layout"
"""On arguments and results of a program for one device: its part of what. Made by
convert-shard-to-stablehlo; stays, for the runtime."""
ALIASING_OUTPUT = "tf.aliasing_output"
"""On an argument, by XLA: the result that its buffer is given to."""
BUFFER_DONOR = "jax.buffer_donor"
"""On an argument, by JAX: its buffer is free for any result."""


def grid_attribute(grid: Grid) -> DictionaryAttr:
    """The value of `autopar.grid`."""
    return DictionaryAttr(
        {
            "axes": ArrayAttr([StringAttr(name) for name in grid.axis_names]),
            "shape": DenseArrayBase.from_list(i64, grid.shape),
        }
    )


def stated_grid(module: ModuleOp, name: str = "mesh") -> Grid | None:
    """The user's grid as `autopar.grid` of a decided module has it; None where it is absent."""
    attr = module.attributes.get(GRID)
    if attr is None:
        return None
    axes = shape = None
    if isinstance(attr, DictionaryAttr):
        axes, shape = attr.data.get("axes"), attr.data.get("shape")
    if isa(axes, ArrayAttr[StringAttr]) and isinstance(shape, DenseArrayBase):
        names = [axis.data for axis in axes]
        sizes = [int(size) for size in shape.get_values()]
        if len(set(names)) == len(names) == len(sizes) and all(size >= 1 for size in sizes):
            return Grid(name, tuple(zip(names, sizes, strict=True)))
    raise DiagnosticError(
        module, f'{GRID} = {attr} is no grid: {{axes = ["x"], shape = array<i64: 2>}} is one'
    )


@irdl_attr_definition
class ShardingAttr(Data[Sharding]):
    """How one tensor lies on a grid: `#autopar.sharding<@mesh, [{"x"}, {}]>`.

    Made by import-sdy, shard-ops-to-attributes, propagation, auto-shard; gone after
    convert-shard-to-stablehlo (arguments and results of @main then carry `autopar.layout`).
    """

    name = "autopar.sharding"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> Sharding:
        with parser.in_angle_brackets():
            return parse_sharding(parser)

    def print_parameter(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            printer.print_string(str(self.data))


@irdl_attr_definition
class StrategyAttr(Data[tuple[Axes, ...]]):
    """The grid axes of each factor of an op's rule: `#autopar.strategy<[["x"], [], ["y"]]>`.

    Made by insert-reshards and auto-shard; gone after shard-partition.
    """

    name = "autopar.strategy"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> tuple[Axes, ...]:
        with parser.in_angle_brackets():
            return parse_list(parser, parse_axes_in_brackets)

    def print_parameter(self, printer: Printer) -> None:
        factors = ", ".join(f"[{', '.join(map(str, axes))}]" for axes in self.data)
        printer.print_string(f"<[{factors}]>")


class _ShardedCopyOp(IRDLOperation):
    """Base of the ops that state the sharding of their result."""

    T: ClassVar = VarConstraint("T", AnyAttr())

    input = operand_def(T)
    sharding = prop_def(ShardingAttr)
    result = result_def(T)

    traits = traits_def(Pure())
    irdl_options = (ParsePropInAttrDict(),)
    assembly_format = "$input attr-dict `:` type($result)"

    def __init__(self, input: SSAValue, sharding: Sharding | ShardingAttr):
        if isinstance(sharding, Sharding):
            sharding = ShardingAttr(sharding)
        # of ready parts: IRDLOperation's own way takes three times as long
        Operation.__init__(
            self, operands=[input], result_types=[input.type], properties={"sharding": sharding}
        )

    def verify_(self) -> None:
        check_rank(self.sharding.data, self.result.type, f"'{self.name}' op")


def check_rank(sharding: Sharding, type: Attribute, what: str) -> None:
    """Refuses a sharding that has not one entry for each dimension of a tensor type."""
    if isinstance(type, ShapedType) and sharding.rank != type.get_num_dims():
        raise VerifyException(
            f"{what}: sharding <{sharding}> has {sharding.rank} dimensions, the value of type "
            f"{type} has {type.get_num_dims()}: give one {{...}} for each dimension"
        )


@irdl_op_definition
class ConstraintOp(_ShardedCopyOp):
    """The user's demand on the sharding of a value.

    Made by import-sdy and shard-ops-to-attributes; gone after insert-reshards.
    """

    name = "autopar.constraint"


@irdl_op_definition
class ReshardOp(_ShardedCopyOp):
    """Changes the sharding of a value: the same tensor, laid out as `sharding` says.

    Made by import-sdy (from sdy.reshard) and insert-reshards; gone after shard-partition.
    """

    name = "autopar.reshard"


Autopar = Dialect("autopar", [ConstraintOp, ReshardOp], [ShardingAttr, StrategyAttr])


# ---- Reading and writing the sharding of values --------------------------------------------------


def sharding_of(value: SSAValue) -> Sharding | None:
    """The sharding that stands on `value`; None where it is not annotated.

    Values that can carry one: op results (those of constraint and reshard: what the op states) and
    arguments of functions.
    """
    if type(value) is OpResult:
        op = value.op
        attr = op.attributes.get(SHARDING)
        if attr is not None:
            return attr.data[value.index].data  # pyright: ignore
        return op.sharding.data if isinstance(op, _ShardedCopyOp) else None
    assert isinstance(value, BlockArgument)
    func = value.block.parent_op()
    if not isinstance(func, FuncOp) or func.arg_attrs is None:
        return None
    if func.body.first_block is not value.block:
        return None
    attr = func.arg_attrs.data[value.index].data.get(SHARDING)
    return None if attr is None else attr.data  # pyright: ignore


def set_sharding(value: SSAValue, sharding: Sharding | None) -> None:
    """Writes the sharding of an op result or a function argument (None removes it).

    On an op with several results those not yet annotated get an open, unsharded one.
    """
    if isinstance(value, OpResult):
        op = value.op
        if isinstance(op, _ShardedCopyOp):
            if sharding is None:
                raise ValueError(f"the sharding of '{op.name}' cannot be removed")
            op.properties["sharding"] = ShardingAttr(sharding)
            op.attributes.pop(SHARDING, None)
            return
        if len(op.results) == 1:
            set_op_shardings(op, None if sharding is None else (sharding,))
            return
        old = op.attributes.get(SHARDING)
        if sharding is None and old is None:
            return
        grid = old.data[0].data.grid if sharding is None else sharding.grid  # pyright: ignore
        entries: list[ShardingAttr] = (
            [_open_attr(grid, result) for result in op.results]  # pyright: ignore
            if old is None
            else list(old.data)  # pyright: ignore
        )
        entries[value.index] = (
            _open_attr(grid, value) if sharding is None else ShardingAttr(sharding)  # pyright: ignore
        )
        op.attributes[SHARDING] = ArrayAttr(entries)
        return
    assert isinstance(value, BlockArgument)
    func = value.block.parent_op()
    if not isinstance(func, FuncOp) or func.body.first_block is not value.block:
        raise ValueError("only op results and arguments of functions carry a sharding")
    func.properties["arg_attrs"] = _with_entry(
        func.arg_attrs, len(func.function_type.inputs.data), value.index, sharding
    )


def set_op_shardings(op: Operation, shardings: Sequence[Sharding] | None) -> None:
    """Writes the shardings of all results of an op at once (None removes them)."""
    if shardings is None:
        op.attributes.pop(SHARDING, None)
    else:
        op.attributes[SHARDING] = ArrayAttr([ShardingAttr(s) for s in shardings])


def result_sharding(func: FuncOp, index: int) -> Sharding | None:
    """The sharding of result `index` of a function; None where it is not annotated."""
    if func.res_attrs is None:
        return None
    attr = func.res_attrs.data[index].data.get(SHARDING)
    return None if attr is None else attr.data  # pyright: ignore


def arg_shardings(func: FuncOp) -> list[Sharding | None]:
    """The shardings of all arguments of a function; None for those that are not annotated."""
    return _shardings_in(func.arg_attrs, len(func.function_type.inputs.data))


def result_shardings(func: FuncOp) -> list[Sharding | None]:
    """The shardings of all results of a function; None for those that are not annotated."""
    return _shardings_in(func.res_attrs, len(func.function_type.outputs.data))


def _shardings_in(attrs: ArrayAttr[DictionaryAttr] | None, count: int) -> list[Sharding | None]:
    if attrs is None:
        return [None] * count
    found = [entry.data.get(SHARDING) for entry in attrs.data]
    return [None if attr is None else attr.data for attr in found]  # pyright: ignore


def aliases(func: FuncOp) -> list[tuple[int, int]]:
    """(argument, result) pairs that share a buffer by `tf.aliasing_output`.

    DiagnosticError where there is no such result, it has another type, or two arguments share it.
    """
    if func.arg_attrs is None:
        return []
    inputs, outputs = func.function_type.inputs.data, func.function_type.outputs.data
    argument_of: dict[int, int] = {}
    for index, entry in enumerate(func.arg_attrs.data):
        alias = entry.data.get(ALIASING_OUTPUT)
        if alias is None:
            continue
        if not isinstance(alias, IntegerAttr):
            raise DiagnosticError(
                func,
                f"argument {index} of @{func.sym_name.data}: {ALIASING_OUTPUT} = {alias}: "
                "expected the number of a result",
            )
        result = alias.value.data
        if not 0 <= result < len(outputs):
            problem = f"and the last one is {len(outputs) - 1}"
        elif inputs[index] is not outputs[result] and inputs[index] != outputs[result]:
            problem = f"of type {outputs[result]}, and is itself {inputs[index]}"
        elif result in argument_of:
            problem = f"as argument {argument_of[result]} does"
        else:
            argument_of[result] = index
            continue
        raise DiagnosticError(
            func,
            f"argument {index} of @{func.sym_name.data} shares the buffer of result {result} by "
            f"{ALIASING_OUTPUT}, {problem}: leave the attribute out, or write {BUFFER_DONOR}",
        )
    return [(argument, result) for result, argument in argument_of.items()]


def _boundary(module: ModuleOp) -> Iterator[tuple[FuncOp, str, DictionaryAttr]]:
    """Each function with each of its arguments and results, named, and what is said of it."""
    for func in module.ops:
        if isinstance(func, FuncOp):
            for what, attrs in (("argument", func.arg_attrs), ("result", func.res_attrs)):
                for index, entry in enumerate(attrs or ()):
                    yield func, f"{what} {index}", entry


def refuse_partitioned(module: ModuleOp, pass_name: str) -> None:
    """DiagnosticError where a function has local shapes: shard-partition has run on it."""
    for func, _, entry in _boundary(module):
        if GLOBAL in entry.data:
            once = "run shard-partition once"
            if pass_name != "shard-partition":
                once = f"run {pass_name} before shard-partition"
            raise DiagnosticError(
                func,
                f"{pass_name}: @{func.sym_name.data} is partitioned already (its "
                f"arguments and results say {GLOBAL}): {once}",
            )


def refuse_unpartitioned(module: ModuleOp, pass_name: str) -> None:
    """DiagnosticError where an argument or a result is split, but has its whole type still."""
    for func, what, entry in _boundary(module):
        sharding = entry.data.get(SHARDING)
        if (
            isinstance(sharding, ShardingAttr)
            and not sharding.data.is_replicated
            and GLOBAL not in entry.data
        ):
            raise DiagnosticError(
                func,
                f"{what} of @{func.sym_name.data} is split <{sharding.data}>, "
                f"and has no {GLOBAL}: run shard-partition before {pass_name}",
            )


def place_like_arguments(func: FuncOp, pairs: Iterable[tuple[int, int]]) -> None:
    """Gives results the shardings of arguments, where they have none yet: (argument, result)."""
    pairs = list(pairs)
    if not pairs:
        return
    shardings, of_arguments = result_shardings(func), arg_shardings(func)
    for argument, result in pairs:
        if shardings[result] is None:
            shardings[result] = of_arguments[argument]
    set_result_shardings(func, shardings)


def set_result_sharding(func: FuncOp, index: int, sharding: Sharding | None) -> None:
    """Writes the sharding of result `index` of a function (None removes it)."""
    func.properties["res_attrs"] = _with_entry(
        func.res_attrs, len(func.function_type.outputs.data), index, sharding
    )


def set_arg_shardings(func: FuncOp, shardings: Iterable[Sharding | None]) -> None:
    """Writes the shardings of all arguments of a function at once."""
    count = len(func.function_type.inputs.data)
    func.properties["arg_attrs"] = _with_entries(func.arg_attrs, count, shardings)


def set_result_shardings(func: FuncOp, shardings: Iterable[Sharding | None]) -> None:
    """Writes the shardings of all results of a function at once."""
    count = len(func.function_type.outputs.data)
    func.properties["res_attrs"] = _with_entries(func.res_attrs, count, shardings)


def set_entry(entry: DictionaryAttr, key: str, attr: Attribute | None) -> DictionaryAttr:
    """`entry` with `key` set to `attr`, or without it where `attr` is None."""
    data = dict(entry.data.items())
    data.pop(key, None)
    if attr is not None:
        data[key] = attr
    return dictionary(data)


def forbidden_collectives(func: FuncOp) -> frozenset[str]:
    """What `autopar.without` says."""
    attr = func.attributes.get(WITHOUT)
    return (
        frozenset(name.data for name in attr) if isa(attr, ArrayAttr[StringAttr]) else frozenset()
    )


def forbid_collectives(func: FuncOp, kinds: Iterable[str]) -> None:
    """Writes it; nothing where nothing is forbidden."""
    names = [StringAttr(kind) for kind in sorted(kinds)]
    func.attributes.pop(WITHOUT, None)
    if names:
        func.attributes[WITHOUT] = ArrayAttr(names)


def entries_of(attrs: ArrayAttr[DictionaryAttr] | None, count: int) -> list[DictionaryAttr]:
    """The dictionaries of `arg_attrs` or `res_attrs`, empty ones where there are none."""
    return [DictionaryAttr({})] * count if attrs is None else list(attrs.data)


def _with_entry(
    attrs: ArrayAttr[DictionaryAttr] | None, count: int, index: int, sharding: Sharding | None
) -> ArrayAttr[DictionaryAttr]:
    entries = entries_of(attrs, count)
    attr = None if sharding is None else ShardingAttr(sharding)
    entries[index] = set_entry(entries[index], SHARDING, attr)
    return ArrayAttr(entries)


def _with_entries(
    attrs: ArrayAttr[DictionaryAttr] | None, count: int, shardings: Iterable[Sharding | None]
) -> ArrayAttr[DictionaryAttr]:
    """Entries that say already what is asked for are kept as they are, and most do."""
    made: dict[int, ShardingAttr] = {}
    entries: list[DictionaryAttr] = []
    for entry, sharding in zip(entries_of(attrs, count), shardings, strict=True):
        items = dict(entry.data.items())  # looks up ten times as fast as `entry.data`
        old = items.pop(SHARDING, None)
        if sharding is None:
            if old is not None:
                entry = dictionary(items)
        elif type(old) is not ShardingAttr or (old.data is not sharding and old.data != sharding):
            attr = made.get(id(sharding))
            if attr is None:
                attr = made[id(sharding)] = ShardingAttr(sharding)
            items[SHARDING] = attr
            entry = dictionary(items)
        entries.append(entry)
    return ArrayAttr(entries)


def _open_attr(grid: str, value: SSAValue) -> ShardingAttr:
    rank = value.type.get_num_dims() if isinstance(value.type, ShapedType) else 0
    return ShardingAttr(Sharding.fully_replicated(grid, rank, is_open=True))
