"""What partitioning has to know of the global program, read while all of it stands.

Where values lie is said by the ops that make them, what an op computes by global types; both go as
ops are made local. So what the local form of an op takes is read before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, UnregisteredOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute, Block, Operation, OpResult, SSAValue

from autopar.dialects.autopar import (
    SHARDING,
    STRATEGY,
    ReshardOp,
    ShardingAttr,
    StrategyAttr,
    entries_of,
)
from autopar.dialects.rules.access import body_reducer, integer, ints, operands_of
from autopar.dialects.rules.core import ShardingRule
from autopar.dialects.rules.registry import partitioned_rule
from autopar.dialects.sdy import ManualComputationOp
from autopar.dialects.stablehlo import CustomCallOp
from autopar.dialects.tensors import item_bytes, shape_of
from autopar.passes.walk import sharded_ops

from .effects import EFFECTS, is_effect
from .localize import LocalOp, localizer_of, moves_elements
from .regions import manual_axes, manual_specs
from .reshard_plan import ReshardPlanner, Step
from .special import given_factors, splittable_factors
from .specs import AxisTable, Spec, without_axes
from .strategy import Splittable, splittable_by_kind

_NAMED_ELSEWHERE = frozenset({CustomCallOp.name, UnregisteredOp.name})
"""Ops that are told apart by more than their name and strategy: they are alike to none."""


class _Split(NamedTuple):
    """What the local form of an op depends on."""

    rule: ShardingRule
    factors: tuple[tuple[int, ...], ...]
    splittable: Splittable


class Move(NamedTuple):
    """How a reshard is to be made."""

    source: Spec
    steps: tuple[Step, ...]
    shape: tuple[int, ...]
    """The global shape."""


class GlobalProgram:
    """One function as it is before partitioning."""

    def __init__(self, func: FuncOp, table: AxisTable) -> None:
        self._func = func
        self._table = table
        self._planner = ReshardPlanner(table)
        self.args: dict[SSAValue, Spec] = {}
        """Where arguments of blocks lie; results lie as their ops say."""
        self.local: dict[Operation, LocalOp] = {}
        """Every op whose local form is more than local types."""
        self.moves: dict[Operation, Move] = {}
        """Of every reshard how it is made."""
        self._plain: set[tuple[str, int, int]] = set()
        """(name, strategy, shardings) of ops that only take local types, attributes by identity."""
        self._splits: dict[tuple[str, int, int], _Split | None] = {}
        """What was found of ops that are alike: (name, strategy, rule), by identity."""
        self._stated: dict[int, tuple[Spec, ...]] = {}
        self._keep: list[object] = []  # objects whose id is a key
        self._readers: dict[str, Callable[[Any], None]] = {
            "autopar.reshard": self._reshard,
            "sdy.manual_computation": self._manual,
            "stablehlo.case": self._regions,
            **dict.fromkeys(EFFECTS, self._call),
            "stablehlo.if": self._regions,
            "stablehlo.while": self._regions,
        }
        """Ops of which more has to be known than their strategy."""

    def read(self) -> None:
        """Walks the function."""
        types = self._func.function_type.inputs.data
        specs = self.boundary(self._func.arg_attrs, types)
        self.args.update(zip(self._func.body.block.args, specs, strict=True))
        readers, plain = self._readers, self._plain
        scattered: list[Operation] = []
        for op in sharded_ops(self._func):
            reader = readers.get(op.name)
            if reader is not None:
                reader(op)
            attributes = op.attributes
            strategy = attributes.get(STRATEGY)
            if strategy is None:
                continue
            key = (op.name, id(strategy), id(attributes.get(SHARDING)))
            if key in plain:
                continue
            split = self._split_of(op, cast(StrategyAttr, strategy), key)
            if split is not None:
                local = self.local[op] = self._global_form(op, split)
                if op.name == "stablehlo.concatenate":
                    self._take_slices(op, local)
                elif op.name == "stablehlo.select_and_scatter":
                    scattered.append(op)
        for op in scattered:
            self._take_padding(op)

    def _split_of(
        self, op: Operation, strategy: StrategyAttr, key: tuple[str, int, int]
    ) -> _Split | None:
        """What localizing the op takes; None where local types are all that it takes."""
        rule = partitioned_rule(op)
        alike = (op.name, id(strategy), id(rule))
        if alike in self._splits:
            return self._splits[alike]
        factors = given_factors(op, rule, strategy, self._table)
        self._keep += (strategy, rule, op.attributes.get(SHARDING))
        assert rule is not None
        if not any(factors):
            self._plain.add(key)  # nothing is split
            return None
        tells_more = op.name in _NAMED_ELSEWHERE
        needs_routine = localizer_of(op) is not None or moves_elements(rule, factors)
        splittable = splittable_factors(op, rule)
        reduces = any(a and r for a, r in zip(factors, splittable.reducers, strict=True))
        split = _Split(rule, factors, splittable) if needs_routine or reduces else None
        if not tells_more and splittable == splittable_by_kind(rule):
            self._splits[alike] = split
        if not (needs_routine or tells_more) and not any(
            spec.partial for spec in self.result_specs(op)
        ):
            self._plain.add(key)  # an op that reduces over what is split has partial results
        return split

    def _global_form(self, op: Operation, split: _Split) -> LocalOp:
        operands = operands_of(op)
        return LocalOp(
            op,
            self._table,
            split.rule,
            split.factors,
            split.splittable.reducers,
            tuple(map(self._spec_of, operands)),
            tuple([shape_of(value.type) for value in operands]),
            self.result_specs(op),
            tuple([shape_of(result.type) for result in op.results]),
        )

    # ---- concatenations of slices ----

    def _take_slices(self, op: Operation, local: LocalOp) -> None:
        """Lets a concatenation take what it can of a slice from what that is a slice of, so that
        parts move once (a roll is the concatenation of two slices of one value)."""
        dim = integer(op, "dimension")
        if not local.result_specs[0].dims[dim]:
            return
        found = [
            self._sliced(value, dim, spec, op.parent)
            for value, spec in zip(operands_of(op), local.operand_specs, strict=True)
        ]
        if not any(views for _, _, views in found):
            return
        local.cuts = tuple(
            (start, shape[dim])
            for (_, start, _), shape in zip(found, local.operand_shapes, strict=True)
        )
        for index, (source, _, _) in enumerate(found):
            op.operands[index] = source
        for _, _, views in found:
            for view in views:
                self.local.pop(view, None)
                self.moves.pop(view, None)
                view.detach()
                view.erase()
        local.operand_specs = tuple(map(self._spec_of, operands_of(op)))
        local.operand_shapes = tuple([shape_of(value.type) for value in operands_of(op)])

    def _sliced(
        self, value: SSAValue, dim: int, spec: Spec, block: Block | None
    ) -> tuple[SSAValue, int, list[Operation]]:
        """What a value is a slice of along `dim`, which lies as `spec` says otherwise, where the
        slice begins, and the ops of this block that only make the value of it."""
        source, start, views = value, 0, list[Operation]()
        passed, at = list[Operation](), 0
        while type(value) is OpResult and value.has_one_use():
            op = value.op
            if op.parent is not block:
                break
            if op.name == "stablehlo.slice" and cuts_only(op, dim):
                at += ints(op, "start_indices")[dim]
            elif type(op) is not ReshardOp:
                break
            passed.append(op)
            (value,) = operands_of(op)
            where = self._spec_of(value)
            if where.partial or any(
                axes != other
                for d, (axes, other) in enumerate(zip(where.dims, spec.dims, strict=True))
                if d != dim
            ):
                continue
            if any(type(view) is not ReshardOp for view in passed):
                source, start, views = value, at, list(passed)
        return source, start, views

    # ---- pads around a select_and_scatter ----

    def _take_padding(self, op: Operation) -> None:
        """Lets a select_and_scatter pad its operand itself where the padding is cut off again, as
        JAX writes it: the blocks of the padded dimension would lie otherwise than the operand's."""
        padded, (result,) = op.operands[0], op.results
        use = result.first_use
        if type(padded) is not OpResult or use is None:
            return
        pad, cut = padded.op, use.operation
        if pad.name != "stablehlo.pad" or cut.name != "stablehlo.slice":
            return
        if not (padded.has_one_use() and result.has_one_use()) or not (
            pad.parent is op.parent is cut.parent
        ):
            return
        value, fill = pad.operands
        (whole,), low = cut.results, ints(pad, "edge_padding_low")
        spec = self._spec_of(value)
        if (
            whole.type != value.type
            or ints(cut, "start_indices") != low
            or any(ints(pad, "interior_padding"))
            or any(stride != 1 for stride in ints(cut, "strides"))
            or body_reducer(op.regions[1]) is None
            or not all(spec == self._spec_of(other) for other in (padded, result, whole))
        ):
            return
        local, shape = self.local[op], shape_of(value.type)
        local.operand_specs = (*local.operand_specs, Spec(()))
        local.operand_shapes = (shape, *local.operand_shapes[1:], ())
        local.result_shapes = (shape,)
        local.padding = tuple(zip(low, ints(pad, "edge_padding_high"), strict=True))
        op.operands = [value, *op.operands[1:], fill]
        result._type = value.type  # pyright: ignore[reportPrivateUsage]
        whole.replace_all_uses_with(result)
        for gone in (cut, pad):
            self.local.pop(gone, None)
            gone.detach()
            gone.erase()

    def _reshard(self, op: ReshardOp) -> None:
        (value,) = operands_of(op)
        source, shape = self._spec_of(value), shape_of(value.type)
        target = self._table.spec(op.sharding.data)
        steps = self._planner.plan(source, target, shape, item_bytes(value.type))
        self.moves[op] = Move(source, steps, shape)

    def _regions(self, op: Operation) -> None:
        specs = self.result_specs(op)
        for region in op.regions:
            self.args.update(zip(region.block.args, specs, strict=False))

    def _manual(self, op: ManualComputationOp) -> None:
        ins, _ = manual_specs(op, self._table)
        manual = manual_axes(op, self._table)
        for arg, spec in zip(op.body.block.args, ins, strict=True):
            self.args[arg] = without_axes(spec, manual)

    def _call(self, op: Operation) -> None:
        if is_effect(op):
            op.attributes.pop(SHARDING, None)  # what it gives is whole along all free axes

    # ---- where values lie ----

    def _spec_of(self, value: SSAValue) -> Spec:
        """Where a value of the global program lies."""
        if type(value) is not OpResult:
            return self.args[value]
        op = value.op
        if type(op) is ReshardOp:
            return self._table.spec(op.sharding.data)
        return self.result_specs(op)[value.index]

    def result_specs(self, op: Operation) -> tuple[Spec, ...]:
        """Where the results of an op lie."""
        attr = op.attributes.get(SHARDING)
        if attr is None:
            return tuple(self._table.replicated(len(shape_of(r.type))) for r in op.results)
        return self.stated(attr)

    def stated(self, attr: Attribute) -> tuple[Spec, ...]:
        """Where an `autopar.sharding` of an op puts its results."""
        specs = self._stated.get(id(attr))
        if specs is None:
            specs = self._stated[id(attr)] = tuple(
                self._table.spec(item.data) for item in cast("ArrayAttr[ShardingAttr]", attr).data
            )
            self._keep.append(attr)
        return specs

    def boundary(
        self, attrs: ArrayAttr[DictionaryAttr] | None, types: Sequence[Attribute]
    ) -> list[Spec]:
        """Where the arguments (results) of the function lie."""
        specs: dict[int, Spec] = {}
        found: list[Spec] = []
        for entry, type in zip(entries_of(attrs, len(types)), types, strict=True):
            attr = entry.data.get(SHARDING)
            if not isinstance(attr, ShardingAttr):
                found.append(self._table.replicated(len(shape_of(type))))
                continue
            spec = specs.get(id(attr))
            if spec is None:
                spec = specs[id(attr)] = self._table.spec(attr.data)
            found.append(spec)
        return found


def cuts_only(op: Operation, dim: int) -> bool:
    """Whether a slice takes all of every other dimension, and leaves out none in between."""
    (value,), (result,) = operands_of(op), op.results
    return all(stride == 1 for stride in ints(op, "strides")) and all(
        old == new
        for d, (old, new) in enumerate(
            zip(shape_of(value.type), shape_of(result.type), strict=True)
        )
        if d != dim
    )
