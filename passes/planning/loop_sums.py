"""What loops add up: which values end as nothing but addends of loop carries, and which of these
are partial sums together.

The partitioner reduces such a sum over devices once, after the loop
(`passes/partition/partials.py`), where all that is added to a carry in a trip is partial over the
same axes: the gradients of a weight that a body uses twice, say. One sum may also go to several
carries.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from xdsl.ir import Operation, SSAValue, Use

from autopar.dialects.rules.registry import get_rule, partitioned_rule
from autopar.dialects.tensors import shape_of
from autopar.passes.partition.partials import Accumulators
from autopar.passes.partition.splats import is_neutral, makes_infinite
from autopar.passes.walk import inner_ops, ops_in

_LOOP = "stablehlo.while"
_ADD = "stablehlo.add"


@dataclass(frozen=True)
class Sink:
    """A carry of a loop that is only added to."""

    loop: Operation
    index: int

    @property
    def total(self) -> SSAValue:
        """What it is after the loop."""
        return self.loop.results[self.index]

    @property
    def maker(self) -> Operation:
        """What gives the whole sum."""
        return self.loop


class SinkOf(Protocol):
    """Where partial sums end: after a loop, or after the last of several was added."""

    @property
    def total(self) -> SSAValue: ...

    @property
    def maker(self) -> Operation: ...


@dataclass(eq=False)
class SumGroup:
    """Ops whose results are partial sums over the same axes, if they are partial sums."""

    makers: list[Operation]
    sinks: list[SinkOf]
    """After which they are reduced."""
    all_partial: bool = False
    """Whether each of them has to be one: carries to which several are added one after the other
    turn partial with the first."""
    passed: set[Operation] = field(default_factory=set[Operation])
    """Ops through which they go to the end of the loops."""
    adds: dict[SinkOf, list[Operation]] = field(default_factory=dict[SinkOf, list[Operation]])
    """Of these what adds them to carries, or stores rows in such, those of inner loops too."""


class LoopSums:
    """What the loops of a function add up."""

    def __init__(self, func: Operation) -> None:
        self._accumulators = Accumulators()
        self._adds: dict[Operation, Sink] = {}
        """What adds to carries, or stores rows in them that an outer loop adds up."""
        self._num_adds: dict[Sink, int] = {}
        self._found: dict[SSAValue, frozenset[Sink]] = {}
        loops = [op for op in inner_ops(func) if op.name == _LOOP]
        for loop in loops:
            self._accumulators.find(loop)
        for loop in loops if self._accumulators.carries else ():
            self._note_adds(loop)
        self.groups: dict[Operation, SumGroup] = {}
        """Of the ops whose results are added up together with others."""
        if self._adds:
            self._group(loops)

    def take(self, value: SSAValue) -> bool:
        """Whether all that happens to a value is that a loop adds it up, by itself."""
        return self._accumulators.take(value)

    def loop_of(self, value: SSAValue) -> Operation | None:
        """The outermost loop that adds up a value which `take` is true of."""
        loop = next((sink.loop for sink in self._sinks(value)), None)
        return value.owner.parent_op() if loop is None else loop

    def totals(self, maker: Operation, value: SSAValue) -> list[SSAValue]:
        """As what a result of an op is reduced, if it is a partial sum: once all is added up that
        it is added to."""
        group = self.groups.get(maker)
        if group is not None:
            return [sink.total for sink in group.sinks]
        loop = maker.parent_op()
        sinks = self._sinks(value) if loop is not None and loop.name == _LOOP else ()
        return [sink.total for sink in sinks] or [value]

    # ---- where a value goes

    def _note_adds(self, loop: Operation) -> None:
        body = loop.regions[1].block
        for arg in body.args:
            if arg not in self._accumulators.carries:
                continue
            value: SSAValue = arg
            adds: list[Operation] = []
            while (use := value.first_use) is not None and use.operation.results:
                adds.append(use.operation)
                value = use.operation.results[0]
            sink = Sink(loop, arg.index)
            self._adds.update(dict.fromkeys(adds, sink))
            self._num_adds[sink] = len(adds)

    def _sinks(self, value: SSAValue) -> frozenset[Sink]:
        """The carries to which all goes that is made of a value, none where that is not all."""
        found = self._found.get(value)
        if found is None:
            ends = [self._sinks_by(value, use) for use in value.uses]
            found = frozenset[Sink]().union(*ends) if all(ends) else frozenset[Sink]()
            self._found[value] = found
        return found

    def _sinks_by(self, value: SSAValue, use: Use) -> frozenset[Sink]:
        user = use.operation
        sink = self._adds.get(user)
        if sink is not None:
            total = sink.total
            outer = self._sinks(total) if self.take(total) else frozenset[Sink]()
            return outer or frozenset([sink])
        if user.parent is not _block(value) or len(user.results) != 1 or may_sum(user):
            return frozenset()
        rule, (result,) = get_rule(user), user.results
        group = next((g for g in rule.linear if use.index in g), None) if rule else None
        if group is None or makes_infinite(user, group):
            return frozenset()
        if count_of(result) > count_of(value):
            return frozenset()
        return self._sinks(result)

    # ---- what goes there together

    def _group(self, loops: Iterable[Operation]) -> None:
        makers: dict[Operation, frozenset[Sink]] = {}
        for loop in loops:
            for op in ops_in(loop.regions[1].block):
                if len(op.results) == 1 and shape_of(op.results[0].type) and may_sum(op):
                    sinks = self._sinks(op.results[0])
                    if sinks:
                        makers[op] = sinks
        for group in _joined(makers):
            self._follow(group)
            adds = [sink for op, sink in self._adds.items() if op in group.passed]
            group.all_partial = any(self._num_adds[sink] > 1 for sink in adds)
            if group.all_partial and not self._are_all(group):
                continue
            alone = len(group.makers) == len(group.adds) == 1
            if not (alone and self.take(group.makers[0].results[0])):
                self.groups.update(dict.fromkeys(group.makers, group))

    def _follow(self, group: SumGroup) -> None:
        """Notes what the sums of a group go through."""
        waiting = [op.results[0] for op in group.makers]
        while waiting:
            for user in [use.operation for use in waiting.pop().uses]:
                if user in group.passed or not user.results:
                    continue
                group.passed.add(user)
                sink = self._adds.get(user)
                if sink is None:
                    waiting += user.results
                else:
                    group.adds.setdefault(sink, []).append(user)
                    waiting += [sink.total] if sink not in group.sinks else []

    def _are_all(self, group: SumGroup) -> bool:
        """Whether all that is added to its carries comes of a group."""
        adds = [op for op, sink in self._adds.items() if sink in group.adds]
        return all(op in group.passed or _adds_nothing(op) for op in adds)


def _joined(makers: dict[Operation, frozenset[Sink]]) -> Iterator[SumGroup]:
    """Those that have a carry in common, directly or by others."""
    of: dict[Sink, list[Operation]] = defaultdict(list)
    for op, sinks in makers.items():
        for sink in sinks:
            of[sink].append(op)
    left = dict(makers)
    while left:
        waiting, group, met = [next(iter(left))], SumGroup([], []), set[Sink]()
        while waiting:
            op = waiting.pop()
            sinks = left.pop(op, None)
            if sinks is None:
                continue
            group.makers.append(op)
            for sink in sorted(sinks - met, key=lambda sink: sink.index):
                met.add(sink)
                group.sinks.append(sink)
                waiting += of[sink]
        yield group


def may_sum(op: Operation) -> bool:
    """Whether an op gives partial sums where it is split."""
    rule = partitioned_rule(op)
    return rule is not None and any(
        kind == "sum" and size > 1
        for kind, size in zip(rule.reducers, rule.factor_sizes, strict=True)
    )


def _adds_nothing(add: Operation) -> bool:
    return any(is_neutral(value, ["sum"]) for value in add.operands)


def _block(value: SSAValue) -> object:
    owner = value.owner
    return owner.parent if isinstance(owner, Operation) else owner


def count_of(value: SSAValue) -> int:
    """Its elements."""
    return math.prod(shape_of(value.type))
