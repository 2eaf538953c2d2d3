"""What the user demands of values, before propagation starts.

A constraint states the sharding of its result. Where nothing speaks against it, its operand has
that sharding too (Shardy's apply-sharding-constraints, for parity with GSPMD): the operand has no
sharding, the constraint is closed, and no other constraint of the operand says something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import Block, Operation, OpResult, SSAValue

from autopar.dialects.autopar import ConstraintOp, sharding_of
from autopar.dialects.rules.regions import BARRIER, MANUAL, NAMED, REGION_OPS
from autopar.dialects.sharding import Grid, Sharding

from .classes import CONSTRAINTS, ConstantFinder
from .manual import border_sharding, specify_manual_axes

_DEMANDING = CONSTRAINTS | {MANUAL}
_BODIES = REGION_OPS | {MANUAL, NAMED}

Demands = dict[tuple[int, int], Sharding]
"""Shardings for operands that are constant expressions, by id() of the user and operand index."""


class ConstraintApplier:
    """Applies constraints to their operands, in program order."""

    def __init__(self, module: ModuleOp, grids: Mapping[str, Grid]) -> None:
        self._module = module
        self._grids = grids
        self._constants = ConstantFinder()
        self._orders: dict[int, dict[int, int]] = {}
        self.values: dict[int, Sharding] = {}
        """Shardings given to values, by id()."""
        self.uses: Demands = {}

    def run(self) -> None:
        users = [
            op
            for func in self._module.body.block.ops
            if isinstance(func, FuncOp) and not func.is_declaration
            for op in _constraint_users(func.body.block)
        ]
        for op in users:
            if op.name == MANUAL:
                specify_manual_axes(op, self._grids)
        for op in users:
            if op.name == MANUAL:
                for index in range(len(op.operands)):
                    self._apply(op, index, border_sharding(op, index, True))
            else:
                self._follow_chain(op)
                self._apply(op, 0, constraint_sharding(op))

    def _order_of(self, block: Block) -> dict[int, int]:
        """Places of the ops of a block, by id(); made once for each block, and when ops move."""
        order = self._orders.get(id(block))
        if order is None:
            order = self._orders[id(block)] = {id(op): i for i, op in enumerate(block.ops)}
        return order

    def _is_constant(self, value: SSAValue) -> bool:
        return self._constants.is_copied(value)

    def _sharding(self, value: SSAValue) -> Sharding | None:
        owner = value.owner
        if isinstance(owner, Operation) and owner.name in CONSTRAINTS:
            return constraint_sharding(owner)
        if isinstance(owner, Operation) and owner.name == MANUAL:
            return border_sharding(owner, cast("OpResult", value).index, False)
        return self.values.get(id(value)) or sharding_of(value)

    def _apply(self, op: Operation, index: int, sharding: Sharding) -> None:
        value = op.operands[index]
        if any(dim.is_open for dim in sharding.dims):
            return
        if self._is_constant(value):
            self.uses[id(op), index] = sharding
            return
        if self._sharding(value) is not None or not _is_shardable(value):
            return
        for use in value.uses:
            user = use.operation
            if user.name in CONSTRAINTS and constraint_sharding(user) != sharding:
                return
            if user.name == MANUAL and border_sharding(user, use.index, True) != sharding:
                return
        if _is_edge_target(value):
            # The edge's other values stay free: only the users of this one see the constraint.
            constraint = op
            if op.name in CONSTRAINTS:
                op.detach()
            else:
                constraint = ConstraintOp(value, sharding)
                constraint.location = op.location
            insert_after(constraint, value)
            self._orders.clear()
            result = constraint.results[0]
            value.replace_uses_with_if(result, lambda use: use.operation is not constraint)
            return
        self.values[id(value)] = sharding

    def _follow_chain(self, head: Operation) -> None:
        """Of a chain of constraints on a value without sharding the last one holds from there on.

        All but the last have no other use; later users of the chain's operand then use its end.
        """
        value = head.operands[0]
        owner = value.owner
        if isinstance(owner, Operation) and owner.name in CONSTRAINTS:
            return
        if self._is_constant(value) or self._sharding(value) is not None:
            return
        if _is_constrained(value, head):
            return
        tail = head
        while (following := _only_user(tail)) is not None and following.name in CONSTRAINTS:
            tail = following
        if tail is head or _is_constrained(tail.results[0], None):
            return
        block = tail.parent_block()
        assert block is not None
        order = self._order_of(block)
        end = order[id(tail)]
        value.replace_uses_with_if(
            tail.results[0],
            lambda use: (
                use.operation is not head
                and use.operation.name != "func.return"
                and use.operation.parent_block() is block
                and order[id(use.operation)] > end
            ),
        )


def constraint_sharding(op: Operation) -> Sharding:
    """The sharding that a constraint states."""
    sharding = sharding_of(op.results[0])
    assert sharding is not None, f"'{op.name}' op states no sharding"
    return sharding


def _constraint_users(block: Block) -> list[Operation]:
    """Constraints and manual computations, inner ones first."""
    found: list[Operation] = []
    op = block.first_op
    while op is not None:
        if op.regions and op.name in _BODIES:
            for region in op.regions:
                for inner in region.blocks:
                    found += _constraint_users(inner)
        if op.name in _DEMANDING:
            found.append(op)
        op = op._next_op  # pyright: ignore[reportPrivateUsage]
    return found


def _is_constrained(value: SSAValue, excluded: Operation | None) -> bool:
    return any(
        use.operation is not excluded
        and (use.operation.name in CONSTRAINTS or use.operation.name == MANUAL)
        for use in value.uses
    )


def _only_user(op: Operation) -> Operation | None:
    uses = list(op.results[0].uses)
    return uses[0].operation if len(uses) == 1 else None


def _owner_of_block(value: SSAValue) -> Operation | None:
    owner = value.owner
    return owner if isinstance(owner, Operation) else owner.parent_op()


def _is_shardable(value: SSAValue) -> bool:
    """Whether a sharding can stand on the value: not on arguments of reduction bodies."""
    if isinstance(value.owner, Operation):
        return True
    op = _owner_of_block(value)
    return op is not None and (isinstance(op, FuncOp) or op.name in _BODIES)


def _is_edge_target(value: SSAValue) -> bool:
    op = _owner_of_block(value)
    return op is not None and (op.name in _BODIES or op.name == BARRIER)


def insert_after(op: Operation, value: SSAValue) -> None:
    """Inserts `op` where `value` is first known."""
    owner = value.owner
    if isinstance(owner, Operation):
        block = owner.parent_block()
        assert block is not None
        block.insert_ops_after([op], owner)
    elif owner.first_op is None:
        owner.add_op(op)
    else:
        owner.insert_ops_before([op], owner.first_op)
