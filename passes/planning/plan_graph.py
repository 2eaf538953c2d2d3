"""The choices of a program: where each place lies and how each op is split, and what that costs.

A node is a place (its choices are specs) or an op with several operands (its choices are
strategies); an edge is what two of them cost together: the resharding from where a value lies to
what an op needs, or from what an op gives to where its result is to lie, partial sums resolved on
the way. An op of one operand is an edge between its places. A value that several ops read has a
node for where it is read from, so that a resharding for all of them is paid once.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
from xdsl.dialects.func import FuncOp
from xdsl.ir import Operation, SSAValue

from autopar.dialects.autopar import aliases
from autopar.dialects.rules.access import operands_of
from autopar.dialects.rules.core import ShardingRule
from autopar.dialects.rules.regions import MANUAL
from autopar.dialects.rules.registry import partitioned_rule
from autopar.dialects.tensors import is_splittable, item_bytes, num_bytes, shape_of
from autopar.passes.cost.flops import op_flops
from autopar.passes.cost.fusion import Fusions
from autopar.passes.cost.loops import times_planned
from autopar.passes.cost.op_kinds import DOTS
from autopar.passes.cost.prices import CostModel
from autopar.passes.importing.arguments import STATE_KINDS, argument_kinds
from autopar.passes.partition.special import splittable_factors
from autopar.passes.partition.specs import AxisTable, Spec
from autopar.passes.partition.strategy import Strategy
from autopar.passes.sharding.propagation.manual import border_sharding

from .axis_orders import axis_orders
from .demands import Demands
from .exchange_prices import Fetch
from .joint_sums import joint_sums
from .loop_sums import LoopSums
from .op_prices import OpPrices
from .places import MOVES, Places, every_spec, specs_that_keep
from .repeats import Ints
from .reshard_prices import Floats, Meets, ReshardPrices
from .stated import Stated
from .sum_prices import SumPrices
from .traffic import Traffic
from .updates import scatter_preference, update_places
from .waiting import Waiting

_Shared = TypeVar("_Shared")
_HELD_BYTE = 1e-15
"""Seconds' worth of a byte that is held on a device: only breaks ties."""
_HELD_ALL = 1e-7
"""The most that is for all arguments, of which a step may read no more than some rows;"""
_HELD_LEAST = 1.6e-11
"""what a small one among larger ones counts for: a few of the search's units."""


@dataclass(eq=False)
class Node:
    """One choice."""

    specs: list[Spec]
    """Of a place: where it may lie."""
    strategies: list[Strategy] = field(default_factory=list[Strategy])
    """Of an op: how it may be split."""
    seconds: Floats = field(default_factory=lambda: np.zeros(0))
    """(choices,)"""

    @property
    def size(self) -> int:
        return len(self.strategies or self.specs)


@dataclass(frozen=True)
class Through:
    """An op of one operand, which lies between two places."""

    op: Operation
    operand: SSAValue
    source: int
    target: int
    needs: list[Spec]
    """Per strategy the form in which the operand is read."""
    gives: list[Spec]
    strategies: list[Strategy]
    fetched: Floats
    """(strategies,): seconds of what devices fetch of each other's parts."""
    best: Ints
    """(choices of the source, choices of the target): the strategy."""


class _Unary(NamedTuple):
    """What equal ops of one operand have in common."""

    needs: list[Spec]
    gives: list[Spec]
    fetched: Floats
    best: Ints
    matrix: Floats


class PlanGraph:
    """The choices of a function on a grid."""

    def __init__(
        self,
        func: FuncOp,
        table: AxisTable,
        prices: CostModel,
        demands: Demands | None = None,
        *,
        like: PlanGraph | None = None,
        meets: Meets = Meets.FEW,
    ) -> None:
        """`like`: of the same function on the same grid, whose prices of reshardings and ops are
        asked for again; `meets`: how many others collectives meet."""
        self.func, self.table, self._prices = func, table, prices
        self.demands = demands or Demands()
        self.nodes: list[Node] = []
        self.edges: dict[tuple[int, int], Floats] = {}
        """(choices of one, choices of the other): what they cost together."""
        self.place_of: dict[SSAValue, int] = {}
        """The node of each place, by the value that stands for it."""
        self._node_of: dict[SSAValue, int | None] = {}
        self.op_nodes: list[tuple[Operation, int]] = []
        self.throughs: list[Through] = []
        self.returned: dict[int, int] = {}
        """By the number of a result: the node of where it is given, if the program states that and
        it takes no argument's place."""
        self.whole: list[Operation] = []
        """Ops that every device computes whole."""
        self.stated = like.stated if like else Stated.find(func, table.grid, self.demands)
        self.places = Places(func, self.stated.of_values)
        self._shared: dict[tuple[object, ...], tuple[Any, object]] = {}
        """What is the same for equal ops, as layers repeat: by the identities of what it is of,
        which are kept with it."""
        self._reshard: ReshardPrices = (
            like._reshard.where_met(meets)
            if like
            else ReshardPrices(table, prices, self.demands, meets)
        )
        self._specs: dict[tuple[int, ...], list[Spec]] = {}
        """By what the axes may divide of the dimensions."""
        self._parts: dict[int, Floats] = {}
        self._loops: dict[Operation, int] = {}
        self._readers: dict[tuple[SSAValue, int], int] = {}
        self.fusion: Fusions = like.fusion if like else Fusions()
        self._traffic = Traffic(self, prices, self._loops)
        self._orders = axis_orders(func, table, self.stated)
        self._ops: OpPrices = (
            like._ops if like else OpPrices(table, prices, self.demands, self.fusion, self._orders)
        )
        self._windows: set[tuple[object, ...]] = set()
        """What is fetched of values, by where it is read."""
        self._updates: set[int] = set()
        """Places where gradients are to be scattered rather than summed everywhere."""
        self.prefers_scatters = False
        """Whether there are any that options would rather have scattered."""
        self._sums = LoopSums(func)
        for group in joint_sums(func.body.block):
            self._sums.groups.update(dict.fromkeys(group.makers, group))
        self._waiting = Waiting(self.places, self.node_of, self._reshard, self._sums)
        self._sum_prices = SumPrices(self, self._sums, prices, self._loops, self._waiting)
        self._choosers = {
            op
            for op in self.places.others
            if op in self._sums.groups or len(self._read(op, self.places.of)) > 1
        }
        """Ops that get a node."""
        self._reads_for = {
            view: op
            for op, cuts in self.places.joined.items()
            for cut in cuts
            for view in cut.views
        }
        """Of slices that are no choice of their own: who reads what they are of."""
        self._build()

    @property
    def forbidden(self) -> frozenset[str]:
        """Collectives that plans may not use."""
        return self.demands.forbidden

    def where_collectives_meet(self, meets: Meets) -> PlanGraph:
        """The same choices, priced as in plans where collectives meet others so: this graph where
        nothing is priced otherwise then."""
        if self._reshard.is_same(meets):
            return self
        return PlanGraph(self.func, self.table, self._prices, self.demands, like=self, meets=meets)

    # ---- places

    def node_of(self, value: SSAValue) -> int | None:
        """The node of the place where a value lies; None where it is free."""
        if value in self._node_of:
            return self._node_of[value]
        place = self.places.of(value)
        node = None if place is None else self.place_of.get(place)
        if place is not None and node is None:
            node = self.place_of[place] = self._add_free(place)
        self._node_of[value] = node
        return node

    def _add_free(self, value: SSAValue) -> int:
        """A node that may have any split of the value."""
        return self.add_place(self._any_spec(value))

    def _any_spec(self, value: SSAValue) -> list[Spec]:
        """All splits of a value."""
        shape = shape_of(value.type)
        flatten = self.demands.flatten_axes
        if self.places.may_be_uneven(value):
            return every_spec(shape, self.table, self._orders, flatten=flatten, uneven=True)
        signature = self._reshard.signature(shape)
        specs = self._specs.get(signature)
        if specs is None:
            specs = every_spec(shape, self.table, self._orders, flatten=flatten)
            self._specs[signature] = specs
        return specs

    def add_place(self, specs: list[Spec]) -> int:
        """A node that costs nothing by itself, which may lie so; its number."""
        return self._add(Node(specs, seconds=np.zeros(len(specs))))

    def _add(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1

    def _restrict(self, value: SSAValue, sharding: Any) -> None:
        node = self.node_of(value)
        if node is not None and sharding is not None:
            choice = self.nodes[node]
            choice.specs = specs_that_keep(choice.specs, sharding, self.table)
            self._parts.pop(node, None)
            choice.seconds = np.zeros(len(choice.specs))

    # ---- building

    def _build(self) -> None:
        func, places = self.func, self.places
        for arg, said in zip(func.body.block.args, self.stated.of_argument, strict=True):
            if said is not None:
                self._restrict(arg, said.sharding)
        if not self.demands.allow_replicated_parameters:
            self._forbid_whole()
        for value, sharding in self.stated.of_values.items():
            self._restrict(value, sharding)
        self._boundary()
        self._hold(func.body.block.args)
        self._waiting.find(func)
        if self.demands.prefer_reduce_scatter:
            self._updates = update_places(func, places, self.node_of, self._may_be_split)
        for arg, value, op in places.reads:
            # what is only converted is moved in the narrower type
            is_narrowed = len(op.operands) == 1 and item_bytes(value.type) < item_bytes(arg.type)
            moved = value if is_narrowed else arg
            self._add_reshard(arg, value, times_planned(op, self._loops), moved)
        for value, other, op in places.parted:
            self._add_reshard(value, other, self._times_moved(value, op))
        for op in places.others:
            self._add_op(op)
        chosen, whole = {op for op, _ in self.op_nodes}, set(self.whole)
        for op in places.ops:
            for result in op.results:
                self.node_of(result)  # every value has a place, also one that nothing decides
            if op not in chosen:
                self._traffic.add(op, whole=op in whole)
        self._traffic.add_sums()

    def _times_moved(self, value: SSAValue, op: Operation) -> int:
        """How often a value goes where an op wants it: what a loop's body gives at each trip."""
        makers = [op, value.owner] if isinstance(value.owner, Operation) else [op]
        return max(times_planned(maker, self._loops) for maker in makers)

    def _forbid_whole(self) -> None:
        """Parameters and optimizer state are split where they can be, and nothing says how."""
        args, kinds = self.func.body.block.args, argument_kinds(self.func)
        for arg, kind, said in zip(args, kinds, self.stated.of_argument, strict=True):
            node = self.node_of(arg)
            if kind not in STATE_KINDS or said is not None or node is None:
                continue
            specs = [spec for spec in self.nodes[node].specs if spec.dim_axes]
            if specs:
                self.nodes[node] = Node(specs, seconds=np.zeros(len(specs)))

    def _may_be_split(self, value: SSAValue) -> bool:
        node = self.node_of(value)
        return node is not None and any(spec.dim_axes for spec in self.nodes[node].specs)

    def _boundary(self) -> None:
        """Results lie where an argument whose buffer they share does, or where the user says."""
        last = self.func.body.block.last_op
        assert last is not None
        argument_of = {result: argument for argument, result in aliases(self.func)}
        for index, value in enumerate(operands_of(last)):
            node = self.node_of(value)
            if node is None:
                continue
            wanted, argument = self.stated.results[index], argument_of.get(index)
            if argument is not None and not self.stated.parts(argument, index):
                self._add_reshard(value, self.func.body.block.args[argument], 1)
            elif wanted is not None:
                specs = specs_that_keep(self._any_spec(value), wanted, self.table)
                target = self.returned[index] = self.add_place(specs)
                self.add_edge(node, target, self._reshards(node, target, value, 1), 1)

    def _hold(self, arguments: Sequence[SSAValue]) -> None:
        """Of plans that take the same time the one that keeps less on each device."""
        sizes = [num_bytes(argument.type) for argument in arguments]
        each = min(_HELD_BYTE, _HELD_ALL / max(1, sum(sizes)))
        for argument, size in zip(arguments, sizes, strict=True):
            node = self.node_of(argument)
            if node is not None:
                choice = self.nodes[node]
                held = max(each * size, min(_HELD_BYTE * size, _HELD_LEAST))
                choice.seconds = choice.seconds + held / self.parts(node)

    def parts(self, place: int) -> Floats:
        """(choices,): into how many parts each choice of a place splits a value."""
        found = self._parts.get(place)
        if found is None:
            parts = [self.table.parts(spec.dim_axes) for spec in self.nodes[place].specs]
            found = self._parts[place] = np.array(parts, np.float64)
        return found

    # ---- ops

    def _add_op(self, op: Operation) -> None:
        trips = times_planned(op, self._loops)
        rule = partitioned_rule(op)
        values = (*self.places.inputs(op), *op.results)
        known = all(is_splittable(v.type) or not shape_of(v.type) for v in values)
        if op.name in MOVES:
            self._add_reshard(op.operands[0], op.results[0], trips)
        elif op.name == MANUAL:
            self._add_manual(op, trips)
        elif rule is None or not known:
            self._add_whole(op, trips)
        else:
            read = self._read(op, self.node_of)
            computes = op.name in DOTS or op_flops(op) > 0
            is_unary = len(read) == 1 and len(op.results) == 1 and not computes
            if is_unary and op not in self._sums.groups:
                self._add_unary(op, rule, read[0], trips)
            else:
                self._add_choice(op, rule, trips)

    def _read(self, op: Operation, place: Callable[[SSAValue], object | None]) -> list[int]:
        """Which inputs of an op have a place; of slices that it joins each value once."""
        inputs = self.places.inputs(op)
        read = [index for index, value in enumerate(inputs) if place(value) is not None]
        if op in self.places.joined:
            read = list({inputs[index]: index for index in reversed(read)}.values())[::-1]
        return read

    def _is_uneven(self, op: Operation) -> bool:
        """Whether what an op reads or gives may be split where the axes do not divide."""
        return any(map(self.places.may_be_uneven, (*self.places.inputs(op), *op.results)))

    def _add_manual(self, op: Operation, trips: int) -> None:
        """A computation by hand (a shard_map), which says how its operands and results lie."""
        for is_entry, values in ((True, operands_of(op)), (False, op.results)):
            for index, value in enumerate(values):
                node = self.node_of(value)
                if node is None:
                    continue
                specs = self.nodes[node].specs
                border = border_sharding(op, index, is_entry)
                kept = specs_that_keep(specs, border, self.table)
                if is_entry:
                    seconds = self.matrix(specs, kept, value).min(axis=1)
                else:
                    seconds = self.matrix(kept, specs, value).min(axis=0)
                self.nodes[node].seconds = self.nodes[node].seconds + trips * seconds

    def _add_whole(self, op: Operation, trips: int) -> None:
        """An op that has whole operands and results on every device."""
        self.whole.append(op)
        for value in (*operands_of(op), *op.results):
            node = self.node_of(value)
            if node is None:
                continue
            whole = [self.table.replicated(len(shape_of(value.type)))]
            specs = self.nodes[node].specs
            ends = (whole, specs) if value in op.results else (specs, whole)
            seconds = self.matrix(*ends, value).reshape(-1)
            self.nodes[node].seconds = self.nodes[node].seconds + trips * seconds

    def _add_unary(self, op: Operation, rule: ShardingRule, index: int, trips: int) -> None:
        """An op of one operand: an edge that costs what its best strategy moves."""
        value, (result,) = self.places.inputs(op)[index], op.results
        source, target = self.node_of(value), self.node_of(result)
        assert source is not None
        if target is None:  # a scalar: what is left to resolve
            self._add_choice(op, rule, trips)
            return
        strategies = self._ops.strategies(
            op, rule, splittable_factors(op, rule), uneven=self._is_uneven(op)
        )
        combined = self._waiting.shares(trips, source, target)
        is_added_up = self._sums.take(result)
        fetches = self._ops.fetches(op, rule, strategies, self.places.joined.get(op, ()))
        if is_added_up or fetches or target in self._updates:
            found = self._unary(
                op, strategies, index, (source, target), trips, fetches, combined=combined
            )
        else:
            ends = self.nodes[source].specs, self.nodes[target].specs
            is_read_by_dot = any(use.operation.name in DOTS for use in result.uses)
            lies = self._ops.lies(value), self._ops.lies(result)
            found = self._share(
                ("unary", index, combined, is_read_by_dot, lies),
                (strategies, *ends, value.type, result.type),
                lambda: self._unary(
                    op, strategies, index, (source, target), trips, (), combined=combined
                ),
            )
        self.throughs.append(
            Through(op, value, source, target, found.needs, found.gives, strategies, *found[2:4])
        )
        self.add_edge(source, target, found.matrix, trips)

    def _unary(
        self,
        op: Operation,
        strategies: list[Strategy],
        index: int,
        ends: tuple[int, int],
        trips: int,
        fetches: Sequence[Sequence[Fetch]],
        *,
        combined: bool,
    ) -> _Unary:
        """The edge of an op of one operand between its ends."""
        value, (result,) = self.places.inputs(op)[index], op.results
        source, target = ends
        needs, gives = self.read_forms(strategies, index), self.given_forms(strategies, 0)
        before = self.matrix(self.nodes[source].specs, needs, value, combined=combined)
        after = self.matrix(gives, self.nodes[target].specs, result, combined=combined)
        if any(use.operation.name in DOTS for use in result.uses):
            before = before + self._ops.slices(self.nodes[source].specs, needs, value)
            after = after + self._ops.slices(gives, self.nodes[target].specs, result)
        is_added_up = self._sums.take(result)
        is_summed = is_added_up and any(given.partial for given in gives)
        if is_summed:
            after = self._sum_prices.alone(gives, target, result, after, trips) / trips
        after = after * self.preference(gives, target, result)
        fetched, _ = self._fetched(
            fetches, len(strategies), [(value, target)] * len(op.operands), op
        )
        seconds = before[:, :, None] + fetched[:, None] + after[None, :, :]
        best = (seconds + self._held(strategies, index, value, result)[:, None]).argmin(axis=1)
        matrix = np.take_along_axis(seconds, best[:, None, :], axis=1)[:, 0, :]
        if is_added_up and not is_summed:
            matrix = matrix + self._sum_prices.kept_whole(source, target, result)
        return _Unary(needs, gives, fetched, best, matrix)

    def _fetched(
        self,
        fetches: Sequence[Sequence[Fetch]],
        count: int,
        ends: Sequence[tuple[SSAValue, int | None]],
        op: Operation,
    ) -> tuple[Floats, dict[int, Floats]]:
        """(strategies,): seconds of what an op alone fetches; and by operand those of what another
        op that reads the value at the same node fetches as well, once for both."""
        alone, again = np.zeros(count), dict[int, Floats]()
        new: list[tuple[object, ...]] = []
        for index, own in enumerate(fetches):
            for fetch in own:
                key = (*ends[fetch.operand], op.parent, fetch.key)
                if key in self._windows:
                    again.setdefault(fetch.operand, np.zeros(count))[index] += fetch.seconds
                else:
                    alone[index] += fetch.seconds
                    new.append(key)
        self._windows.update(new)
        return alone, again

    def _add_choice(self, op: Operation, rule: ShardingRule, trips: int) -> None:
        """A node for how an op of several operands is split."""
        splittable = splittable_factors(op, rule)
        uneven = self._is_uneven(op)
        strategies = self._ops.strategies(op, rule, splittable, uneven=uneven)
        sizes = self._traffic.moved(op, (*operands_of(op), *op.results))
        seconds = self._ops.seconds(op, rule, splittable, strategies, sizes, uneven=uneven)
        node = self._add(Node([], strategies, trips * seconds))
        self.op_nodes.append((op, node))
        ends = [(value, self._reader(value, trips)) for value in self.places.inputs(op)]
        fetches = self._ops.fetches(op, rule, strategies, self.places.joined.get(op, ()))
        fetched, again = self._fetched(fetches, len(strategies), ends, op)
        self.nodes[node].seconds = self.nodes[node].seconds + trips * fetched
        for index in self._read(op, self.node_of):
            value, source = ends[index]
            if source is not None:
                needs = self.read_forms(strategies, index)
                combined = self._waiting.shares(trips, source)
                specs = self.nodes[source].specs
                matrix = self._shared_matrix(specs, needs, value, combined=combined)
                if index in again:  # where the value does not lie as the op before reads it
                    other = [[spec != need for need in needs] for spec in specs]
                    matrix = matrix + again[index] * np.array(other)
                if op.name in DOTS:
                    matrix = matrix + self._ops.slices(specs, needs, value)
                self.add_edge(source, node, matrix, trips)
                if self.forbidden:
                    self._forbid_between(value, source, node, needs)
        for index, result in enumerate(op.results):
            gives = self.given_forms(strategies, index)
            target = self.node_of(result)
            if target is not None:
                combined = self._waiting.shares(trips, target)
                specs = self.nodes[target].specs
                matrix = self._shared_matrix(gives, specs, result, combined=combined)
                preference = self.preference(gives, target, result)
                if not result.has_one_use():  # which would slice it itself
                    matrix = matrix + self._ops.slices(gives, specs, result)
                group = self._sums.groups.get(op)
                if group is not None:
                    matrix = self._sum_prices.jointly(group, node, gives, target, result, matrix)
                    self.add_edge(node, target, matrix, trips)
                elif self._sums.take(result):
                    matrix = self._sum_prices.alone(gives, target, result, matrix, trips)
                    self.add_edge(node, target, matrix * preference, 1)
                else:
                    self.add_edge(node, target, matrix * preference, trips)
            elif not shape_of(result.type):
                left = self.matrix(gives, [Spec(())], result).reshape(-1)
                left = left * self._waiting.share(op, result)
                self.nodes[node].seconds = self.nodes[node].seconds + trips * left

    def _forbid_between(
        self, value: SSAValue, source: int, node: int, needs: Sequence[Spec]
    ) -> None:
        """What an op reads elsewhere than where the value lies is brought to it from there: that
        may be forbidden though both steps on the way are not."""
        place = self.node_of(value)
        if place is not None and place != source:
            moved = self.matrix(self.nodes[place].specs, needs, value)
            self.add_edge(place, node, np.where(np.isinf(moved), np.inf, 0.0), 1)

    def _held(
        self, strategies: Sequence[Strategy], index: int, value: SSAValue, result: SSAValue
    ) -> Floats:
        """(strategies,): of those that move as much the one that has least in memory."""
        parts = self.table.parts
        sizes = num_bytes(value.type), num_bytes(result.type)
        splits = [(s.operands[index].dim_axes, s.results[0].dim_axes) for s in strategies]
        held = [sizes[0] / parts(read) + sizes[1] / parts(given) for read, given in splits]
        return _HELD_BYTE * np.array(held, np.float64)

    def _share(
        self, which: tuple[Hashable, ...], of: tuple[object, ...], find: Callable[[], _Shared]
    ) -> _Shared:
        """What `find` gives, found once for the same objects."""
        key = *which, *map(id, of)
        found = self._shared.get(key)
        if found is None:
            found = self._shared[key] = find(), of
        return found[0]

    def read_forms(self, strategies: list[Strategy], operand: int) -> list[Spec]:
        """In which form each strategy reads an operand."""
        return self._share(
            ("reads", operand),
            (strategies,),
            lambda: [s.operands[operand].with_partial(()) for s in strategies],
        )

    def given_forms(self, strategies: list[Strategy], result: int) -> list[Spec]:
        """In which form each strategy gives a result."""
        return self._share(
            ("gives", result), (strategies,), lambda: [s.results[result] for s in strategies]
        )

    # ---- edges

    def _reader(self, value: SSAValue, trips: int) -> int | None:
        """The node that an op reads a value from: of its own where several ops read it."""
        node = self.node_of(value)
        if node is None:
            return None
        key = (value, trips)
        found = self._readers.get(key)
        if found is None:
            readers = (use.operation for use in value.uses)
            users = Counter(self._reads_for.get(reader, reader) for reader in readers)
            shared = sum(1 for user in users if user in self._choosers) > 1
            if not shared:
                found = node
            else:
                found = self._add_free(value)  # a demand on the value is none on how it is read
                specs = self.nodes[node].specs, self.nodes[found].specs
                moved = self._reshards(node, found, value, trips) + self._ops.slices(*specs, value)
                self.add_edge(node, found, moved, trips)
            self._readers[key] = found
        return found

    def waiting_sums(self) -> Iterator[tuple[SSAValue, list[frozenset[int]], int, int]]:
        """Sums that are reduced together with others: each with the axes that devices have parts
        of it over, by the choice of a node, that node, and the one of the place where it lies."""
        chosen = dict(self.op_nodes)
        for sum_ in self._waiting.sums:
            group = self._sums.groups.get(sum_.maker)
            if group is not None:
                node = self._sum_prices.node_of(group)
                axes = [spec.partial_axes for spec in self.nodes[node].specs]
            elif sum_.maker in chosen:
                node = chosen[sum_.maker]
                axes = [s.results[sum_.result].partial_axes for s in self.nodes[node].strategies]
            else:
                continue
            yield sum_.total, axes, node, sum_.node

    def read_by(self, value: SSAValue, op: Operation) -> int | None:
        """The node of the form in which an op that has a node reads a value."""
        node = self.node_of(value)
        return (
            None
            if node is None
            else self._readers.get((value, times_planned(op, self._loops)), node)
        )

    def neighbours(self) -> dict[int, list[tuple[int, Floats]]]:
        """Of each node that has any: the others, and what they cost together (choices of the node,
        choices of the other)."""
        found: dict[int, list[tuple[int, Floats]]] = defaultdict(list)
        for (one, two), seconds in self.edges.items():
            found[one].append((two, seconds))
            found[two].append((one, seconds.T))
        return found

    def passes_sum(self, op: Operation, chosen: Sequence[int]) -> bool:
        """Whether an op is handed what loops add up, a partial sum up to their end."""
        return self._sum_prices.passes(op, chosen)

    @property
    def readers(self) -> Mapping[tuple[SSAValue, int], int]:
        """By value and how often it is read: the node that ops read it from."""
        return self._readers

    def _add_reshard(
        self, source: SSAValue, target: SSAValue, trips: int, moved: SSAValue | None = None
    ) -> None:
        """A value that may lie elsewhere than what it is joined with; `moved`: what goes there."""
        one, two = self.node_of(source), self.node_of(target)
        if one is not None and two is not None and one != two:
            self.add_edge(one, two, self._reshards(one, two, moved or source, trips), trips)

    def _reshards(self, one: int, two: int, value: SSAValue, trips: int) -> Floats:
        combined = self._waiting.shares(trips, one, two)
        specs = self.nodes[one].specs, self.nodes[two].specs
        return self._shared_matrix(*specs, value, combined=combined)

    def matrix(
        self,
        ones: Sequence[Spec],
        twos: Sequence[Spec],
        value: SSAValue,
        *,
        combined: bool = False,
    ) -> Floats:
        """(ones, twos): seconds of bringing a value from one form to another; `combined`: by
        collectives that wait for others."""
        shape, size = shape_of(value.type), num_bytes(value.type)
        moved = self._reshard.seconds(ones, twos, shape, size, combined=combined)
        return moved + self._ops.stored(ones, twos, value)

    def _shared_matrix(
        self, ones: Sequence[Spec], twos: Sequence[Spec], value: SSAValue, *, combined: bool
    ) -> Floats:
        """The same, of lists that are asked for again."""
        return self._share(
            ("matrix", combined, self._ops.lies(value)[0]),
            (ones, twos, value.type),
            lambda: self.matrix(ones, twos, value, combined=combined),
        )

    def preference(self, gives: Sequence[Spec], target: int, result: SSAValue) -> Floats | float:
        """(gives, choices of the target): by what to multiply the seconds of bringing what an op
        gives to its place."""
        if target not in self._updates:
            return 1.0
        factors = scatter_preference(result, gives, self.nodes[target].specs)
        self.prefers_scatters = self.prefers_scatters or bool(np.any(factors != 1))
        return factors

    def add_edge(self, one: int, two: int, seconds: Floats, trips: int) -> None:
        """Adds seconds of each of `trips` to what the choices of two nodes cost together."""
        if one == two:
            self.nodes[one].seconds = self.nodes[one].seconds + trips * np.diagonal(seconds)
            return
        if one > two:
            one, two, seconds = two, one, seconds.T
        have = self.edges.get((one, two))
        self.edges[one, two] = trips * seconds if have is None else have + trips * seconds
