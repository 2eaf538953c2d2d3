"""Bringing values to where they are needed: reshards, made once and read by all who need them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from xdsl.dialects.builtin import StringAttr
from xdsl.ir import Operation, SSAValue
from xdsl.rewriter import Rewriter

from autopar.dialects.autopar import PHASE, SHARDING, ConstraintOp, ReshardOp
from autopar.dialects.stablehlo import OptimizationBarrierOp
from autopar.dialects.tensors import item_bytes, shape_of

from .computed import computed_anew
from .partials import Partials, common_partial
from .reshard_moves import Step
from .reshard_plan import ReshardPlanner
from .specs import Spec, without_axes
from .splats import copy_splat, is_neutral
from .value_specs import ValueSpecs


class Resharder:
    """Puts reshards into the program where a value does not lie as it has to.

    `frees_early`: the program is one for the pass `free-early`; `without`: collectives that are not
    used to bring a value from another form of it than that in which it lies.
    """

    def __init__(
        self,
        specs: ValueSpecs,
        partials: Partials,
        planner: ReshardPlanner,
        *,
        frees_early: bool,
        without: Iterable[str] = (),
    ) -> None:
        self._specs = specs
        self._partials = partials
        self._planner = planner
        self._frees_early = frees_early
        self._without = frozenset(without)
        self._versions: dict[SSAValue, list[SSAValue]] = {}
        """For a value what it was resharded to."""
        self._num_again = 0

    def bring(self, op: Operation, index: int, spec: Spec) -> None:
        """Makes operand `index` of `op` lie as `spec` says, by a reshard if it does not."""
        value = op.operands[index]
        if self._specs.of[value] != spec:
            op.operands[index] = self._resharded(value, spec, op)

    def bring_again(self, op: Operation, index: int, spec: Spec) -> None:
        """As `bring`, by a reshard of its own, which nothing merges with those before, and which
        waits for what the op reads besides. Later ops may read it too."""
        value = op.operands[index]
        versions = self._versions.setdefault(value, [])
        earlier = [version for version in versions if self._specs.of[version] == spec]
        new = self._reshard(self._held_back(value, op), spec, op)
        if earlier:
            self._num_again += 1
            new.attributes[PHASE] = StringAttr(f"again_{self._num_again}")
        _insert(new, op)
        op.operands[index] = new.result
        versions[:] = [version for version in versions if version not in earlier] + [new.result]

    def _held_back(self, value: SSAValue, op: Operation) -> SSAValue:
        """A value behind a barrier with the operand of an op that is made last."""
        block = op.parent
        others = (v for v in op.operands if v is not value and not isinstance(v.owner, ReshardOp))
        made = {v.owner: v for v in others if isinstance(v.owner, Operation)}
        last = op.prev_op
        while last is not None and last is not value.owner and last not in made:
            last = last.prev_op
        if last is None or last is value.owner or block is None:
            return value  # there is nothing later to wait for
        operands = [value, made[last]]
        barrier = OptimizationBarrierOp.create(
            operands=operands,
            result_types=[operand.type for operand in operands],
            location=op.location,
        )
        _insert(barrier, op)
        self._specs.record(barrier, [self._specs.of[operand] for operand in operands])
        for at, operand in enumerate(op.operands):
            if operand is made[last]:
                op.operands[at] = barrier.results[1]
        return barrier.results[0]

    def _resharded(self, value: SSAValue, spec: Spec, before: Operation) -> SSAValue:
        """`value` laid out by `spec`: an earlier reshard of it, or a new one before `before`."""
        versions = self._versions.setdefault(value, [])
        visible = [version for version in versions if _is_visible(version, before)]
        for version in visible:
            if self._specs.of[version] == spec:
                return version
        if is_neutral(value, [kind for kind, _ in spec.partial]):
            return self._constant_copy(value, spec, before)
        best: SSAValue = value
        best_cost = self._reshard_cost(value, value, spec) if visible else 0.0
        for version in visible:
            cost = self._reshard_cost(version, value, spec)
            if cost < best_cost and self._may_begin_at(version, spec):
                best, best_cost = version, cost
        if not spec.partial and self._moves(best, spec):
            made = computed_anew(value, spec, self._specs)
        else:
            made = []
        made = made or [self._reshard(best, spec, before)]
        for op in made:
            op.location = before.location
            _insert(op, before)
        (result,) = made[-1].results
        versions.append(result)
        return result

    def _may_begin_at(self, version: SSAValue, spec: Spec) -> bool:
        """Whether a value may be brought from there by the collectives that are allowed."""
        if not self._without:
            return True
        return self._without.isdisjoint(step.kind for step in self._steps(version, spec))

    def _moves(self, value: SSAValue, spec: Spec) -> bool:
        """Whether a reshard of the value sends anything."""
        return any(step.num_bytes for step in self._steps(value, spec))

    def _steps(self, value: SSAValue, spec: Spec) -> Sequence[Step]:
        """Those of a reshard of the value."""
        return self._planner.plan(
            self._specs.of[value], spec, shape_of(value.type), item_bytes(value.type)
        )

    def _reshard(self, value: SSAValue, spec: Spec, place: Operation) -> ReshardOp:
        """A reshard with the location of `place`, in no block yet."""
        op = ReshardOp.create(
            operands=[value],
            result_types=[value.type],
            properties={"sharding": self._specs.attr(spec)},
            location=place.location,
        )
        (result,) = op.results
        self._specs.of[result] = spec
        return op

    def _constant_copy(self, value: SSAValue, spec: Spec, before: Operation) -> SSAValue:
        """A splat is the same under any sharding: a copy of it instead of a reshard."""
        copy = copy_splat(value)
        copy.location = before.location
        _insert(copy, before)
        self._specs.record(copy, [spec])
        self._versions[value].append(copy.results[0])
        return copy.results[0]

    def _reshard_cost(self, version: SSAValue, value: SSAValue, spec: Spec) -> float:
        return self._planner.cost(
            self._specs.of[version], spec, shape_of(value.type), item_bytes(value.type)
        )

    def bring_results(self, op: Operation, natural: Sequence[Spec], wanted: Sequence[Spec]) -> None:
        """Resolves partials and reshards results to what they are wanted as, or defers it.

        `wanted` is partial over what the results' own annotations want to stay partial.
        """
        for result, have, want in zip(op.results, natural, wanted, strict=True):
            if have.partial or want.partial:
                want = want.with_partial(common_partial(have.partial, want.partial))
            if have == want or (have.partial and self._defers(result, have, want)):
                continue
            if result.first_use is None:
                continue
            after = op.next_op
            assert after is not None
            new = self._reshard(result, want, op)
            for use in list(result.uses):
                if use.operation is not new:
                    use.operation.operands[use.index] = new.result
            _insert(new, after)

    def _defers(self, result: SSAValue, have: Spec, want: Spec) -> bool:
        """Whether a partial is resolved after its users: a reduction is all that is left to do, or
        an accumulator takes it. Else its users would be split as the op is, not as they are to be.

        Where memory is freed early, what is to be scattered waits for its users as the part that it
        is to be: gathered again it has sent no more than an all-reduce does.
        """
        if not self._partials.defers(result, have):
            return False
        left = without_axes(want, have.partial_axes)
        if have.dims == left.dims and not (self._frees_early and left.dims != want.dims):
            return True
        return self._partials.is_added_up(result)

    def constrain(self, op: ConstraintOp | ReshardOp) -> None:
        """The value is resharded to it here, on its own (never a shared reshard)."""
        spec = self._specs.table.spec(op.sharding.data)
        source = op.input
        if self._specs.of[source] == spec:
            self._specs.of[op.result] = spec
            op.result.replace_all_uses_with(source)
            Rewriter.erase_op(op)
            return
        new = self._reshard(source, spec, op)
        new.attributes.update(op.attributes)
        new.attributes.pop(SHARDING, None)
        Rewriter.replace_op(op, new)


def _insert(op: Operation, before: Operation) -> None:
    assert before.parent is not None
    before.parent.insert_op_before(op, before)


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
