"""Classes of ops that propagation tells apart by name, and constant expressions."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from xdsl.ir import Operation, OpResult, SSAValue

from autopar.dialects.rules import elementwise
from autopar.dialects.rules.access import operands_of
from autopar.dialects.rules.regions import BARRIER, MANUAL, NAMED, REGION_OPS
from autopar.dialects.rules.registry import OpClass, op_classes
from autopar.dialects.tensors import is_tensor

CONSTRAINTS = frozenset(elementwise.CONSTRAINTS)
_CONSTANTS = frozenset(
    {"stablehlo.constant", "stablehlo.iota", "arith.constant", "chlo.constant", "sdy.constant"}
)
RESHARDS = frozenset({"autopar.reshard", "sdy.reshard"})
BARRIER_OP = "sdy.propagation_barrier"
_FOLLOWERS = frozenset(
    {BARRIER_OP, "stablehlo.broadcast_in_dim", "stablehlo.reshape", "stablehlo.slice"}
)


GROUP_OP = "sdy.sharding_group"
_DATA_FLOW = REGION_OPS | {MANUAL, NAMED, BARRIER, "func.call"}
_BY_USES = frozenset({"elementwise", "pass_through", "forward"})


def constant_followers() -> frozenset[str]:
    """The ops (by name) that make constants of constants: elementwise ones, and those that only
    move elements."""
    every = frozenset(n for n, of in op_classes().items() if of == "elementwise")
    return (every - CONSTRAINTS) | _FOLLOWERS


def rank_of(value: SSAValue) -> int:
    """Rank of a tensor; 0 for everything else."""
    type_ = value.type
    return len(type_.shape.data) if is_tensor(type_) else 0


class Treatment(Enum):
    """What the graph makes of an op."""

    OP = 1
    """Slots and a node."""
    GROUP = 2
    """A sharding group."""
    DATA_FLOW = 3
    """Edges between values, into regions and calls."""


@dataclass(frozen=True, slots=True)
class OpKind:
    """What propagation knows of all ops of one name."""

    name: str
    op_class: OpClass | None
    treatment: Treatment
    is_constraint: bool
    is_reshard: bool
    is_barrier: bool
    is_constant: bool
    """It makes a tensor of nothing."""
    is_follower: bool
    """Of constants it makes constants."""
    states_sharding: bool
    """Its results have a sharding that the op states itself."""
    is_broadcast: bool
    may_be_copied: bool
    depends_on_uses: bool
    """The first level at which it propagates depends on how often its operands are used."""


class OpKinds(dict[type[Operation], OpKind]):
    """The kinds of ops by class, found when they are first asked for."""

    def __init__(self) -> None:
        super().__init__()
        self._classes = op_classes()
        self._followers = constant_followers()

    def __missing__(self, cls: type[Operation]) -> OpKind:
        name = cls.name
        op_class = self._classes.get(name)
        treatment = Treatment.OP
        if name == GROUP_OP:
            treatment = Treatment.GROUP
        elif name in _DATA_FLOW:
            treatment = Treatment.DATA_FLOW
        is_constant, is_follower = name in _CONSTANTS, name in self._followers
        kind = self[cls] = OpKind(
            name,
            op_class,
            treatment,
            is_constraint=name in CONSTRAINTS,
            is_reshard=name in RESHARDS,
            is_barrier=name == BARRIER_OP,
            is_constant=is_constant,
            is_follower=is_follower,
            states_sharding=name in CONSTRAINTS or name in RESHARDS,
            is_broadcast=name == "stablehlo.broadcast_in_dim",
            may_be_copied=is_constant or is_follower,
            depends_on_uses=op_class in _BY_USES,
        )
        return kind


def is_copied(op: Operation, kind: OpKind, expressions: set[int]) -> bool:
    """Whether each use of `op` may have its own copy; ops are asked for in program order.

    Constants, iota, what is computed elementwise from these alone, and broadcasts of scalars cost
    nothing. Scalars themselves need no copies. `expressions` grows by the values (by id()) that are
    computed from constants alone.
    """
    if kind.is_follower:
        operands = operands_of(op)
        for value in operands:
            if id(value) not in expressions:
                return kind.is_broadcast and not rank_of(operands[0])
    elif not kind.is_constant:
        return False
    result = op.results[0]
    expressions.add(id(result))
    return rank_of(result) > 0


class ConstantFinder:
    """Tells constant expressions (`is_copied`) of single values, without a walk of the program."""

    def __init__(self) -> None:
        self._kinds = OpKinds()
        self._copied: dict[int, bool] = {}
        """Whether an op may be copied, by id(), of those that were looked at."""
        self._expressions: set[int] = set()

    def is_copied(self, value: SSAValue) -> bool:
        """Whether each use of the op that computes the value may have its own copy."""
        stack = [value]
        while stack:
            current = stack[-1]
            if type(current) is not OpResult or id(current.op) in self._copied:
                stack.pop()
                continue
            op = current.op
            kind = self._kinds[type(op)]
            unknown = self._unknown_operands(op) if kind.is_follower else ()
            stack += unknown
            if not unknown:
                found = kind.may_be_copied and is_copied(op, kind, self._expressions)
                self._copied[id(op)] = found
        return type(value) is OpResult and self._copied[id(value.op)]

    def _unknown_operands(self, op: Operation) -> list[OpResult]:
        return [
            value
            for value in operands_of(op)
            if type(value) is OpResult and id(value.op) not in self._copied
        ]
