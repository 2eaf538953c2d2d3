"""Which values of a block lie in memory, under an estimate of how XLA fuses.

A value is *kept* (written to memory once, read by its users) or computed inside every op that
needs it. XLA's rules, simplified (`InstructionFusion`, of CPU and GPU alike):

- dots, convolutions, sorts, collectives, loops and all that is not listed below write their
  results; what they read is kept;
- elementwise ops, broadcasts, slices, pads, concatenations … are computed inside their users, and
  so is what a reduction reads;
- an op with several users, each in another fusion, is kept where it is dear (exponential, tanh,
  division …), or where computing it again would read more bytes than its result has;
- a dear op is kept where its elements are used again and again (broadcast);
- reshapes, barriers and added dimensions are other names of what they read, and so are
  transposes that dots read (dots take their operands in any order) and what a loop carries
  unchanged.

Constants are not in memory: they are part of the program.
"""

from __future__ import annotations

from collections.abc import Iterable

from xdsl.ir import Block, Operation, OpResult, SSAValue

from autopar.dialects.autopar import COMBINE
from autopar.dialects.tensors import num_bytes
from autopar.dialects.traits import Elementwise
from autopar.passes.walk import ops_in

DOTS = frozenset({"stablehlo.dot_general", "stablehlo.convolution"})
_CHEAP = frozenset(
    f"stablehlo.{name}"
    for name in (
        "broadcast_in_dim", "clamp", "concatenate", "dynamic_slice", "iota", "pad", "reverse",
        "select", "slice", "transpose", "get_tuple_element", "bitcast_convert",
    )
) | {"shard.all_slice"}  # fmt: skip
_DEAR = frozenset(
    f"stablehlo.{name}"
    for name in (
        "atan2", "cbrt", "cosine", "divide", "exponential", "exponential_minus_one", "log",
        "log_plus_one", "logistic", "power", "remainder", "rsqrt", "sine", "sqrt", "tan", "tanh",
    )
)  # fmt: skip
_CHEAP_CHLO = frozenset(
    {"chlo.conj", "chlo.is_inf", "chlo.is_neg_inf", "chlo.is_pos_inf", "chlo.square"}
)
_VIEWS = frozenset({"stablehlo.reshape", "stablehlo.optimization_barrier"})
_LOOPS = frozenset({"stablehlo.while"})
_COMPUTES_OPERANDS = frozenset({"stablehlo.reduce", "stablehlo.gather"})
"""Ops that compute what they read by themselves, and whose result is kept."""
_IN_PLACE = frozenset({"stablehlo.dynamic_update_slice", "stablehlo.scatter"})
_CUTS = frozenset(
    {"stablehlo.slice", "stablehlo.dynamic_slice", "stablehlo.gather", "shard.all_slice"}
)
"""Ops that read no more of an operand than their result has."""
_CONSTANT = "stablehlo.constant"


def is_elementwise(op: Operation) -> bool:
    """Whether an op computes each element of its result from those at the same place."""
    return op.has_trait(Elementwise)


def updates_in_place(op: Operation) -> bool:
    """Whether an op changes a part of its first operand."""
    return op.name in _IN_PLACE


class Fusion:
    """The kept values of one block, and what each of its ops reads."""

    def __init__(self, block: Block) -> None:
        self.ops = list(ops_in(block))
        self._own: frozenset[Operation | Block] = frozenset(self.ops)
        self._kept: set[SSAValue] = set(block.args)
        self._leaves: dict[SSAValue, frozenset[SSAValue]] = {}
        """What a value is computed from, if all that may be is computed inside others."""
        self._places: dict[SSAValue, frozenset[int]] = {}
        """The ops, by their places, in whose code a value is computed."""
        for op in self.ops:
            for value in op.results:
                self._leaves[value] = self._leaves_of(op, value)
        for place in range(len(self.ops) - 1, -1, -1):
            for value in self.ops[place].results:
                self._decide(place, self.ops[place], value)

    def is_kept(self, value: SSAValue) -> bool:
        """Whether the value has memory of its own."""
        return value in self._kept

    def written(self, op: Operation) -> list[SSAValue]:
        """The results of an op that are kept."""
        return [value for value in op.results if value in self._kept]

    def name(self, value: SSAValue) -> SSAValue | None:
        """The kept value that a value is, or is another name of; None: it has no memory."""
        while value not in self._kept and value.owner in self._own:
            viewed = _viewed(value)
            if viewed is None:
                return None
            value = viewed
        return value

    def reads(self, op: Operation) -> dict[SSAValue, float]:
        """The kept values that an op reads, with what is computed inside it, and how many bytes of
        each: what is sliced off is not read, nor what is updated in place."""
        found: dict[SSAValue, float] = {}
        for index, operand in enumerate(op.operands):
            most = 0.0 if index == 0 and updates_in_place(op) else _read_at_most(op, operand)
            self._reach(operand, most, found)
        return found

    def _reach(self, value: SSAValue, most: float, found: dict[SSAValue, float]) -> None:
        op = value.owner
        if value in self._kept or op not in self._own:
            found[value] = max(found.get(value, 0.0), min(most, num_bytes(value.type)))
        elif isinstance(op, Operation) and op.name != _CONSTANT:
            viewed = _viewed(value)
            for source in op.operands if viewed is None else (viewed,):
                self._reach(source, min(most, _read_at_most(op, source)), found)

    def _leaves_of(self, op: Operation, value: SSAValue) -> frozenset[SSAValue]:
        if op.name == _CONSTANT:
            return frozenset()
        viewed = _viewed(value)
        if viewed is None and (not _is_code(op) or (_is_dear(op) and not value.has_one_use())):
            return frozenset((value,))
        sources = op.operands if viewed is None else (viewed,)
        leaves = (self._leaves.get(source, frozenset((source,))) for source in sources)
        return frozenset[SSAValue]().union(*leaves)

    def _decide(self, place: int, op: Operation, value: SSAValue) -> None:
        places: set[int] = set()
        is_demanded = self._visit_users(value, places)
        self._places[value] = frozenset(places)
        if op.name == _CONSTANT or _viewed(value) is not None:
            return
        if is_demanded or not _is_code(op) or self._is_kept_apart(op, value, places):
            self._kept.add(value)
            self._places[value] = frozenset((place,))

    def _visit_users(self, value: SSAValue, places: set[int]) -> bool:
        """Adds the places in whose code a value would be computed; whether a user wants it kept."""
        is_demanded = False
        for use in value.uses:
            user = use.operation
            views = [v for v in user.results if _viewed(v) is value]
            for view in views:
                is_demanded |= self._visit_users(view, places)
            if views and user.name not in _LOOPS:
                continue
            if user.name in _COMPUTES_OPERANDS or COMBINE in user.attributes or _is_code(user):
                for result in user.results:
                    places |= self._places.get(result, frozenset())
            else:
                is_demanded |= not (updates_in_place(user) and use.index > 0)
        return is_demanded

    def _is_kept_apart(self, op: Operation, value: SSAValue, places: Iterable[int]) -> bool:
        """Whether a value that could be computed inside its users is better kept."""
        if _is_dear(op) and any(map(_repeats, (use.operation for use in value.uses))):
            return True
        if len(set(places)) <= 1:
            return False
        again = sum(num_bytes(leaf.type) for leaf in self._leaves[value])
        return _is_dear(op) or again > _WORTH_READING * num_bytes(value.type)


_WORTH_READING = 1.25
"""A value is computed again from up to this many times its own bytes: small operands (a scale, a
row of statistics) beside one of its own size do not count."""


def _viewed(value: SSAValue) -> SSAValue | None:
    """The value of which this one is another name: of a view its operand, of a loop's result what
    the loop carries unchanged."""
    op = value.owner
    if not isinstance(value, OpResult) or not isinstance(op, Operation):
        return None
    if op.name in _LOOPS:
        body = op.regions[1].block
        last = body.last_op
        is_same = last is not None and last.operands[value.index] is body.args[value.index]
        return op.operands[value.index] if is_same else None
    if op.name == "stablehlo.transpose":
        into_dots = all(use.operation.name in DOTS for use in value.uses)
        return op.operands[0] if into_dots else None
    if op.name == "stablehlo.broadcast_in_dim":  # adds dimensions of size 1
        return None if _repeats(op) else op.operands[0]
    return op.operands[value.index] if op.name in _VIEWS else None


def _is_code(op: Operation) -> bool:
    """Whether an op may be computed inside its users."""
    return op.name in _CHEAP or is_elementwise(op)


def _is_dear(op: Operation) -> bool:
    """Whether computing an element again costs more than reading it."""
    return op.name in _DEAR or (op.name.startswith("chlo.") and op.name not in _CHEAP_CHLO)


def _repeats(op: Operation) -> bool:
    """Whether an op reads the elements of its operand again and again."""
    is_broadcast = op.name == "stablehlo.broadcast_in_dim"
    return is_broadcast and num_bytes(op.results[0].type) > num_bytes(op.operands[0].type)


def _read_at_most(op: Operation, operand: SSAValue) -> float:
    """Bytes that an op reads of an operand."""
    cut = num_bytes(op.results[0].type) if op.name in _CUTS else float("inf")
    return min(cut, num_bytes(operand.type))
