"""The local form of one op, given its strategy.

Most ops are legal on local shapes as they are: their result types change, and operands that a
split reduction reads with padding are masked by the neutral element. Ops with attributes that
speak of sizes or positions have a routine, registered by name; it gets a `LocalOp`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from xdsl.dialects.builtin import TensorType
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.rewriter import Rewriter

from autopar.dialects.reductions import COMBINERS
from autopar.dialects.rules.access import ints, op_name, operands_of, string
from autopar.dialects.rules.core import FactorKind, ShardingRule
from autopar.dialects.tensors import is_tensor, shape_of

from ..local_builder import LocalBuilder, resized
from ..specs import AxisTable, Spec
from ..splats import is_neutral
from ..windows import block_starts


@dataclass
class LocalOp:
    """An op with local operands, and what its global form was."""

    op: Operation
    table: AxisTable
    rule: ShardingRule
    factors: tuple[tuple[int, ...], ...]
    """The axes of each factor."""
    reducers: tuple[str | None, ...]
    operand_specs: tuple[Spec, ...]
    operand_shapes: tuple[tuple[int, ...], ...]
    """Global shapes."""
    result_specs: tuple[Spec, ...]
    result_shapes: tuple[tuple[int, ...], ...]
    cuts: tuple[tuple[int, int], ...] = ()
    """Of a concatenation the first element and the number of those that it takes of each operand,
    in its dimension; () where it takes all of each."""
    padding: tuple[tuple[int, int], ...] = ()
    """Of a select_and_scatter how many elements of its last operand, a scalar, it puts before and
    after each dimension of the first; they are cut off its result. () where there are none."""

    def builder(self) -> LocalBuilder:
        """Makes ops before this one."""
        return LocalBuilder(self.table, self.op)

    def local_result_shape(self, index: int = 0) -> tuple[int, ...]:
        """The shape of a device's part of a result: blocks of equal size, the last padded."""
        return self.table.local_shape(self.result_shapes[index], self.result_specs[index])

    def local_result_type(self, index: int = 0) -> TensorType[Attribute]:
        """The type of a device's part of a result."""
        return resized(self.op.results[index].type, self.local_result_shape(index))

    def set_local_types(self) -> None:
        """Gives the results their local types: the op stays as it is otherwise."""
        for index, result in enumerate(self.op.results):
            if is_tensor(result.type) and any(self.result_specs[index].dims):
                result._type = self.local_result_type(index)  # pyright: ignore[reportPrivateUsage]

    def replace(self, values: Sequence[SSAValue]) -> None:
        """The op's results are `values` from here on; the op is gone."""
        Rewriter.replace_op(self.op, [], values)

    def replace_uses(self, result: SSAValue, value: SSAValue) -> None:
        """`value`, computed from `result`, stands for it from here on."""
        result.replace_uses_with_if(value, lambda use: use.operation is not value.owner)

    def is_padded(self, size: int, axes: tuple[int, ...]) -> bool:
        """Whether a dimension of global `size` has padding when it is split over `axes`."""
        return bool(axes) and not self.table.is_divisible(size, axes)

    def mask_reduced(self, fills: Sequence[SSAValue | None] | None = None) -> None:
        """Puts neutral elements into the padding of operand dimensions that are reduced.

        `fills`: for each operand the scalar to use instead of the reducer's neutral element.
        """
        for factor, (axes, reducer) in enumerate(zip(self.factors, self.reducers, strict=True)):
            if not axes or reducer is None:
                continue
            for index, mapping in enumerate(self.rule.operands):
                for dim, held in enumerate(mapping):
                    size = self.operand_shapes[index][dim]
                    if held != (factor,) or not self.is_padded(size, axes):
                        continue
                    fill = fills[index] if fills is not None else None
                    self.mask_padding(index, dim, reducer, fill)

    def mask_padding(self, index: int, dim: int, kind: str, fill: SSAValue | None = None) -> None:
        """Puts the neutral element of a reduction (or `fill`) into the padding of an operand."""
        size, axes = self.operand_shapes[index][dim], self.operand_specs[index].dims[dim]
        if not self.is_padded(size, axes):
            return
        builder = self.builder()
        value = self.op.operands[index]
        if fill is None:
            fill = builder.neutral(kind, value.type)
        offset = builder.per_device(block_starts(builder, axes, size))
        self.op.operands[index] = builder.mask(value, dim, offset, 0, size, fill)


Localizer = Callable[[LocalOp], None]

_LOCALIZERS: dict[str, Localizer] = {}
"""The routines by op name; those of a custom_call by `stablehlo.custom_call@target`."""
_MOVING: dict[str, Localizer] = {}
"""The routines of ops that need one only where a permutation factor is split."""
_PERMUTING: set[str] = set()
"""Of them, those whose routine also splits the rule's permutation factors (third parties' only;
`special.py` says it of ours)."""


def localizer(*names: str, only_moving: bool = False) -> Callable[[Localizer], Localizer]:
    """Decorator: the routine makes ops of these names local.

    `only_moving`: those whose strategy splits a permutation factor; the common routine the others.
    """

    def register(function: Localizer) -> Localizer:
        for name in names:
            (_MOVING if only_moving else _LOCALIZERS)[name] = function
        return function

    return register


def register_localizer(name: str, routine: Localizer, *, splits_permutations: bool = False) -> None:
    """Adds or replaces the routine that makes ops of this name local (for third parties).

    Only an op that is not legal on local shapes as it stands needs one: whose attributes speak of
    sizes or positions, or whose reduction does not ignore the reducer's neutral element in padding.
    `splits_permutations`: the routine knows what to do where a factor of kind PERMUTATION is split.
    Programs that are compiled already stay as they are: `autopar.clear_executable_cache()`.
    """
    _LOCALIZERS[name] = routine
    _PERMUTING.discard(name)
    if splits_permutations:
        _PERMUTING.add(name)


def register_custom_call_localizer(
    target: str, routine: Localizer, *, splits_permutations: bool = False
) -> None:
    """As `register_localizer`, for `stablehlo.custom_call` ops that call `target`."""
    register_localizer(
        f"stablehlo.custom_call@{target}", routine, splits_permutations=splits_permutations
    )


def _key(op: Operation) -> str:
    name = op.name
    if name == "builtin.unregistered":
        return op_name(op)
    if name == "stablehlo.custom_call":
        return f"{name}@{string(op, 'call_target_name')}"
    return name


def localizer_of(op: Operation) -> Localizer | None:
    """The routine that makes an op local; None where the common one does."""
    return _LOCALIZERS.get(_key(op))


def moves_elements(rule: ShardingRule, factors: Sequence[tuple[int, ...]]) -> bool:
    """Whether a permutation factor is split: the parts need data of other devices."""
    return any(
        axes and kind is FactorKind.PERMUTATION
        for kind, axes in zip(rule.kinds, factors, strict=True)
    )


def splits_permutations(op: Operation) -> bool:
    """Whether a third party's routine splits the permutation factors of an op."""
    return bool(_PERMUTING) and _key(op) in _PERMUTING


def localize(local: LocalOp) -> None:
    """Makes one op local: its own routine, or the common one; nothing to do for empty results."""
    if all(0 in shape for shape in local.result_shapes):
        builder = local.builder()
        local.replace(
            [
                builder.empty(result.type, local.local_result_shape(index))
                for index, result in enumerate(local.op.results)
            ]
        )
        return
    routine = localizer_of(local.op)
    if local.op.name in _MOVING and moves_elements(local.rule, local.factors):
        routine = _MOVING[local.op.name]
    if routine is not None:
        routine(local)
        return
    kinds = {r for r, axes in zip(local.reducers, local.factors, strict=True) if r and axes}
    if kinds:
        local.mask_reduced()
    if local.op.name == "stablehlo.reduce" and len(kinds) == 1 and _reduces_single_elements(local):
        _combine_with_init(local, *kinds)
    else:
        local.set_local_types()


def _reduces_single_elements(local: LocalOp) -> bool:
    """Whether a reduction of one tensor has one element to reduce on each device."""
    operands = operands_of(local.op)
    dims = ints(local.op, "dimensions")
    return len(operands) == 2 and all(shape_of(operands[0].type)[dim] == 1 for dim in dims)


def _combine_with_init(local: LocalOp, kind: str) -> None:
    """The reduction of single elements, without the op: XLA forgets its initial value where it
    drops dimensions of size 1 (jaxlib 0.10.2, on CPU)."""
    value, init = operands_of(local.op)
    builder, type = local.builder(), local.local_result_type()
    value = builder.op("reshape", [value], type)
    if not is_neutral(init, [kind]):
        start = builder.broadcast(init, type.get_shape(), [])
        value = builder.op(COMBINERS[kind].removeprefix("stablehlo."), [value, start], type)
    local.replace([value])
