"""Bringing values to where they are needed: reshards, made once and read by all who need them."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.ir import Operation, SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from autopar.dialects.autopar import SHARDING, ConstraintOp, ReshardOp
from autopar.dialects.tensors import item_bytes, shape_of

from .partials import Partials, common_partial
from .reshard_plan import ReshardPlanner
from .specs import PartialAxes, Spec
from .splats import copy_splat, is_neutral, splat_of
from .value_specs import ValueSpecs


class Resharder:
    """Puts reshards into the program where a value does not lie as it has to."""

    def __init__(self, specs: ValueSpecs, partials: Partials, planner: ReshardPlanner) -> None:
        self._specs = specs
        self._partials = partials
        self._planner = planner
        self._versions: dict[SSAValue, list[SSAValue]] = {}
        """For a value what it was resharded to."""

    def bring(self, op: Operation, index: int, spec: Spec) -> None:
        """Makes operand `index` of `op` lie as `spec` says, by a reshard if it does not."""
        value = op.operands[index]
        if self._specs.of[value] != spec:
            op.operands[index] = self._resharded(value, spec, op)

    def _resharded(self, value: SSAValue, spec: Spec, before: Operation) -> SSAValue:
        """`value` laid out by `spec`: an earlier reshard of it, or a new one before `before`."""
        if splat_of(value) is not None and is_neutral(value, [k for k, _ in spec.partial]):
            return self._constant_copy(value, spec, before)
        best: SSAValue = value
        best_cost = self._reshard_cost(value, value, spec)
        for version in self._versions.get(value, ()):
            if not _is_visible(version, before):
                continue
            if self._specs.of[version] == spec:
                return version
            cost = self._reshard_cost(version, value, spec)
            if cost < best_cost:
                best, best_cost = version, cost
        op = ReshardOp(best, self._specs.attr(spec))
        op.location = before.location
        Rewriter.insert_op(op, InsertPoint.before(before))
        self._specs.of[op.result] = spec
        self._versions.setdefault(value, []).append(op.result)
        return op.result

    def _constant_copy(self, value: SSAValue, spec: Spec, before: Operation) -> SSAValue:
        """A splat is the same under any sharding: a copy of it instead of a reshard."""
        for version in self._versions.get(value, ()):
            if self._specs.of[version] == spec and _is_visible(version, before):
                return version
        copy = copy_splat(value)
        copy.location = before.location
        Rewriter.insert_op(copy, InsertPoint.before(before))
        self._specs.record(copy, [spec])
        self._versions.setdefault(value, []).append(copy.results[0])
        return copy.results[0]

    def _reshard_cost(self, version: SSAValue, value: SSAValue, spec: Spec) -> float:
        return self._planner.cost(
            self._specs.of[version], spec, shape_of(value.type), item_bytes(value.type)
        )

    def bring_results(
        self,
        op: Operation,
        natural: Sequence[Spec],
        wanted: Sequence[Spec],
        demands: Sequence[PartialAxes] | None = None,
    ) -> None:
        """Resolves partials and reshards results to what they are wanted as, or defers it.

        `demands`: what the results' own annotations want to stay partial.
        """
        demands = demands or [()] * len(natural)
        for result, have, want, demanded in zip(op.results, natural, wanted, demands, strict=True):
            if have.partial:
                want = want.with_partial(common_partial(have.partial, demanded))
            if have == want or (have.partial and self._partials.defers(result, have)):
                continue
            if result.first_use is None:
                continue
            after = op.next_op
            assert after is not None
            new = ReshardOp(result, self._specs.attr(want))
            new.location = op.location
            for use in list(result.uses):
                if use.operation is not new:
                    use.operation.operands[use.index] = new.result
            Rewriter.insert_op(new, InsertPoint.before(after))
            self._specs.of[new.result] = want

    def constrain(self, op: ConstraintOp | ReshardOp) -> None:
        """The value is resharded to it here, on its own (never a shared reshard)."""
        spec = self._specs.table.spec(op.sharding.data)
        source = op.input
        if self._specs.of[source] == spec:
            self._specs.of[op.result] = spec
            op.result.replace_all_uses_with(source)
            Rewriter.erase_op(op)
            return
        new = ReshardOp(source, self._specs.attr(spec))
        new.location = op.location
        new.attributes.update(op.attributes)
        new.attributes.pop(SHARDING, None)
        Rewriter.replace_op(op, new)
        self._specs.of[new.result] = spec


def _is_visible(value: SSAValue, op: Operation) -> bool:
    """Whether `value`, defined earlier in the walk, dominates `op` (its block encloses it)."""
    block = value.owner.parent if isinstance(value.owner, Operation) else value.owner
    current = op.parent
    while current is not None:
        if current is block:
            return True
        parent = current.parent_op()
        current = None if parent is None else parent.parent
    return False
