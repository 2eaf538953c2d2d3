"""Partial values: which stay partial through an op or a loop, and which are resolved.

A partial value is a sum (maximum, ...) of what the devices hold. Reducing it costs a collective, so
it is reduced late where that costs less:

- one with a single user that is linear in it, and whose result is no larger, stays partial (an
  all-reduce is paid late, and once for a sum of several);
- a loop carry that is only added to, an accumulator, is partial where what is added is: gradients
  accumulated over microbatches are reduced once, after the loop, those of 16 bits as the wider sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from xdsl.ir import BlockArgument, Operation, SSAValue

from autopar.dialects.autopar import ConstraintOp, ReshardOp
from autopar.dialects.rules.access import operands_of, type_of
from autopar.dialects.rules.core import ShardingRule
from autopar.dialects.rules.registry import get_rule
from autopar.dialects.tensors import num_bytes, shape_of

from .specs import PartialAxes, Spec, merge_partial, without_axes
from .splats import is_neutral, makes_infinite
from .value_specs import ValueSpecs


class Accumulators:
    """Carries of loops that are only added to, so that they may be partial in the body."""

    def __init__(self) -> None:
        self.carries: set[SSAValue] = set()
        """Arguments of loop bodies."""

    def find(self, loop: Operation, may: Callable[[BlockArgument], bool] = lambda _: True) -> None:
        """Notes those of a loop that `may` be partial; outer loops come before inner ones."""
        condition, body = (region.block for region in loop.regions)
        for index, arg in enumerate(body.args):
            if condition.args[index].first_use is not None or not may(arg):
                continue
            chain = _accumulation(arg, index)
            if chain == "adds" or (chain == "stores" and self.take(loop.results[index])):
                self.carries.add(arg)

    def take(self, value: SSAValue) -> bool:
        """Whether all that happens to a value is that one of them adds it, or has it next."""
        while (use := value.first_use) is not None and value.has_one_use():
            user = use.operation
            loop, block = user.parent_op(), user.parent
            if user.next_op is None and block and loop and loop.name == "stablehlo.while":
                return len(block.args) > use.index and block.args[use.index] in self.carries
            if any(other in self.carries for other in user.operands):
                return user.name == "stablehlo.add"
            rule = get_rule(user) if len(user.results) == 1 else None
            group = next((g for g in rule.linear if use.index in g), None) if rule else None
            if group is None or not all(
                i == use.index or is_neutral(user.operands[i], ["sum"]) for i in group
            ):
                return False
            value = user.results[0]
        return False


class Partials:
    """What may stay partial, given where the values lie so far."""

    def __init__(self, specs: ValueSpecs) -> None:
        self._specs = specs
        self._accumulators = Accumulators()

    # ---- through an op ----

    def carried(self, op: Operation, rule: ShardingRule) -> PartialAxes:
        """The partial axes that pass through `op`; () where none may, or they have to be resolved
        first."""
        operands = operands_of(op)
        specs = [self._specs.of[value] for value in operands]
        partials = [(index, spec.partial) for index, spec in enumerate(specs) if spec.partial]
        if not partials:
            return ()
        for group in rule.linear:
            members = [(i, p) for i, p in partials if i in group]
            if not members or any(i not in group for i, _ in partials):
                continue
            wanted = members[0][1]
            if any(p != wanted for _, p in members):
                continue
            if not rule.moves_data and any(kind != "sum" for kind, _ in wanted):
                continue
            axes = {axis for _, partial_axes in wanted for axis in partial_axes}
            if any(axes & spec.dim_axes for i, spec in enumerate(specs) if i not in group):
                continue
            if makes_infinite(op, group):
                continue
            others = [
                operands[i] for i, spec in enumerate(specs) if i in group and not spec.partial
            ]
            others = [v for v in others if not is_neutral(v, [k for k, _ in wanted])]
            if not others or self._accumulates(others, wanted):
                return wanted
            # Whole values come along where an accumulator takes the sum: on one device what they
            # are, neutral on the others.
            value = op.operands[members[0][0]]
            spec = self._specs.of[value]
            if all(self._can_become(other, spec) for other in others) and self._is_accumulated(
                op, group, value, spec
            ):
                return wanted
        return ()

    def _can_become(self, value: SSAValue, spec: Spec) -> bool:
        """Whether a value whose place is known is as partial as `spec`, or free to be made so."""
        known = self._specs.of.get(value)
        if known is None:
            return False
        if known.partial:
            return known.partial == spec.partial
        return not known.dim_axes & spec.partial_axes

    def carrying_operands(
        self, op: Operation, rule: ShardingRule, carried: PartialAxes
    ) -> frozenset[int]:
        """The operands of the linear group through which `carried` passes."""
        for group in rule.linear:
            if any(self._specs.of[op.operands[i]].partial == carried for i in group):
                return frozenset(group)
        return frozenset()

    def _accumulates(self, others: Sequence[SSAValue], wanted: PartialAxes) -> bool:
        """Whether the other operands of a sum are loop carries that may be partial as well.

        If so they become partial from here on (their only use is this sum).
        """
        if not all(value in self._accumulators.carries for value in others):
            return False
        axes = frozenset(axis for _, partial_axes in wanted for axis in partial_axes)
        for value in others:
            # Axes that would split the carry are those to be reduced over: it is whole in the loop.
            self._specs.of[value] = without_axes(self._specs.of[value], axes).with_partial(wanted)
        return True

    # ---- after an op ----

    def defers(self, value: SSAValue, spec: Spec) -> bool:
        """Whether a partial value is better resolved after its users: no bytes are added by it, or
        an accumulator takes them."""
        uses = list(value.uses)
        types = [type_of(result) for use in uses for result in use.operation.results]
        own = type_of(value)
        grows = types != [own] and sum(map(num_bytes, types)) > num_bytes(own)
        return all(self._defers_to(use.operation, use.index, value, spec, grows) for use in uses)

    def _defers_to(
        self,
        user: Operation,
        index: int,
        value: SSAValue,
        spec: Spec,
        grows: bool,
        is_accumulated: bool = False,
    ) -> bool:
        """As `defers`, for operand `index` of one user. `grows`: the users' results are larger;
        `is_accumulated`: take it that an accumulator takes what the user makes of it."""
        if len(user.results) != 1:
            return not grows and self._defers_to_terminator(user, index, spec)
        rule = get_rule(user)
        if rule is None or type(user) in (ConstraintOp, ReshardOp):
            return False
        group = next((g for g in rule.linear if index in g), None)
        if group is None or (
            not rule.moves_data and any(kind != "sum" for kind, _ in spec.partial)
        ):
            return False
        if grows:
            is_accumulated = self._is_accumulated(user, group, value, spec)
            if not is_accumulated:
                return False
        for position, other in enumerate(operands_of(user)):
            known = self._specs.of.get(other)
            if position == index or other is value or known is None:
                continue  # not known: made later, it may turn out partial as well
            if position not in group:
                if known.dim_axes & spec.partial_axes or known.partial:
                    return False
            elif known.partial != spec.partial and not (
                other in self._accumulators.carries
                or is_neutral(other, [k for k, _ in spec.partial])
                or (
                    self._can_become(other, spec)
                    and (is_accumulated or self._is_accumulated(user, group, value, spec))
                )
            ):
                return False
        return not makes_infinite(user, group)

    def _is_accumulated(
        self, user: Operation, group: Sequence[int], value: SSAValue, spec: Spec
    ) -> bool:
        """Whether an accumulator takes what `user` makes of a partial value, which stays partial up
        to there: one collective after the loop, even if of a wider type, is less than one in every
        iteration. `group`: the operands of `user` that are to be partial together."""
        count = math.prod(shape_of(value.type))
        while self._accumulators.carries:
            members = [user.operands[i] for i in group]
            if any(member in self._accumulators.carries for member in members):
                return True
            result = user.results[0]
            use = result.first_use
            if use is None or not result.has_one_use() or not use.operation.results:
                return False
            if math.prod(shape_of(result.type)) > count:
                return False  # a broadcast: its operand may be far smaller
            if not all(self._may_be_partial(member, spec) for member in members):
                return False
            user = use.operation
            if not self._defers_to(user, use.index, result, spec, False, is_accumulated=True):
                return False
            rule = get_rule(user)
            assert rule is not None
            group = next(g for g in rule.linear if use.index in g)
        return False

    def _may_be_partial(self, value: SSAValue, spec: Spec) -> bool:
        """Whether a value is partial as `spec` is or, not decided yet, may become so; a neutral one
        is either."""
        if is_neutral(value, [kind for kind, _ in spec.partial]):
            return True
        waiting, seen = [value], set[SSAValue]()
        while waiting:
            value = waiting.pop()
            if value in seen:
                continue
            seen.add(value)
            known, op = self._specs.of.get(value), value.owner
            if known is not None or not isinstance(op, Operation):
                if self._can_become(value, spec):
                    return True
                continue
            rule = get_rule(op)
            if op.regions if rule is None else any(rule.reducers):
                return True
            if rule is not None:
                waiting += [op.operands[i] for group in rule.linear for i in group]
        return False

    def _defers_to_terminator(self, user: Operation, index: int, spec: Spec) -> bool:
        """A loop's body may return a partial for a carry that is partial."""
        parent = user.parent_op()
        if parent is None or parent.name != "stablehlo.while" or user.next_op is not None:
            return False
        body = parent.regions[1].block
        return self._specs.of[body.args[index]].partial == spec.partial

    # ---- in loops ----

    def find_accumulators(self, loop: Operation, *, only_whole: bool = False) -> None:
        """Notes the carries of a loop that may become partial in its body.

        `only_whole`: those that lie whole on every device, where a partial takes no more bytes.
        """
        self._accumulators.find(loop, lambda arg: not (only_whole and self._specs.of[arg].dim_axes))

    @property
    def has_accumulators(self) -> bool:
        """Whether a loop has been met that adds up."""
        return bool(self._accumulators.carries)

    def is_added_up(self, value: SSAValue) -> bool:
        """Whether all that happens to a value is that an accumulator of an outer loop adds it."""
        return self._accumulators.take(value)


def common_partial(have: PartialAxes, demanded: PartialAxes) -> PartialAxes:
    """The part of what a value is partial over that is demanded to stay so."""
    if not demanded:
        return ()
    wanted = dict(demanded)
    return merge_partial(
        (kind, [a for a in axes if a in wanted.get(kind, ())]) for kind, axes in have
    )


def _accumulation(arg: BlockArgument, index: int) -> str | None:
    """How a loop carry comes from itself: "adds" where it is only added to, "stores" where parts of
    it are also overwritten (the stacked gradients of a scan over layers); None: in another way."""
    value: SSAValue = arg
    found = "adds"
    while value.has_one_use():
        use = value.first_use
        assert use is not None
        user = use.operation
        if user.next_op is None and not user.results:
            return found if use.index == index and value is not arg else None
        if user.parent is not arg.block:
            return None
        if user.name == "stablehlo.dynamic_update_slice" and use.index == 0:
            found = "stores"
        elif user.name not in ("stablehlo.add", "arith.addf", "arith.addi"):
            return None
        value = user.results[0]
    return None
