"""The fixed point: which node is visited when, at which level, at which user priority.

The order of visits follows Shardy's driver, since it decides conflicts: the nodes in program
order; when a slot changes, its nodes that were already visited go on a stack that is served first.
A step depends on the states of a node's slots alone, so its results are kept (`_steps`): the layers
of a network repeat each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from itertools import takewhile

from autopar.dialects.sharding import Axes, AxisRef, DimSharding, Grid, Sharding

from .axes import AxisAlgebra
from .factors import TensorState, propagate_step
from .graph import Graph
from .levels import LEVELS
from .manual import Border
from .profiles import Variant

_MAX_ROUNDS = 10


class Engine:
    """States of the slots of a graph, and their propagation."""

    def __init__(self, graph: Graph, grids: Mapping[str, Grid]) -> None:
        self.graph = graph
        self._algebras = {name: AxisAlgebra(grid) for name, grid in grids.items()}
        self.grids = grids
        self._table: list[TensorState] = []
        self._ids: dict[TensorState, int] = {}
        self._open = {rank: self._intern(_open_state(rank)) for rank in set(graph.ranks)}
        self._states = [self._open[rank] for rank in graph.ranks]
        self._steps: dict[tuple[int, ...], tuple[tuple[int, int], ...]] = {}
        self._settling: set[tuple[int, ...]] = set()
        """Steps after which the same step has nothing more to do."""
        self._initial: dict[Sharding, int] = {}
        """The states that shardings start as."""
        self._without_sub_axes: dict[int, int] = {}
        """States without the sub-axes of open dimensions, by the states with them."""
        self._dirty = bytearray()
        """For each node whether a slot changed since its last visit."""
        self._touched = bytearray()
        """For each node whether a slot got a sharding, or more of one, at this priority."""
        self._originals: dict[int, Sharding] = {}
        """Shardings with user priorities above 0."""

    # States

    def _intern(self, state: TensorState) -> int:
        found = self._ids.get(state)
        if found is None:
            found = self._ids[state] = len(self._table)
            self._table.append(state)
        return found

    def state(self, slot: int) -> TensorState:
        return self._table[self._states[slot]]

    @property
    def state_ids(self) -> list[int]:
        """The state's number of every slot."""
        return self._states

    def state_id(self, slot: int) -> int:
        """A number that is equal for slots of equal state."""
        return self._states[slot]

    def open_id(self, rank: int) -> int:
        """The state of a tensor that nothing is known of."""
        return self._intern(_open_state(rank))

    def state_of_id(self, state_id: int) -> TensorState:
        return self._table[state_id]

    def set_initial(self, slot: int, sharding: Sharding) -> None:
        """The sharding that a slot starts with; dimensions of a later priority wait for it."""
        if any(dim.priority for dim in sharding.dims):
            if slot in self.graph.edge_slots:
                dims = tuple(dim._replace(priority=None) for dim in sharding.dims)
                sharding = replace(sharding, dims=dims)
            else:
                self._originals[slot] = sharding
        state = self._initial.get(sharding)
        if state is None:
            state = self._initial[sharding] = self._intern(self._initial_state(sharding))
        self._states[slot] = state

    def initial(self, slot: int) -> tuple[int, Sharding | None]:
        """What a slot starts with, before propagation: equal for equal shardings."""
        return self._states[slot], self._originals.get(slot)

    def demands(self, slot: int) -> bool:
        """Whether a slot starts with more than a sharding that leaves everything open."""
        original = self._originals.get(slot)
        if original is None:
            state = self.state(slot)
            return any((*state.dims, *state.closed, state.replicated, state.partial))
        return original.says_something

    def copy_initial(self, source: int, target: int) -> None:
        """Lets a slot start with what another one starts with, priorities included."""
        self._states[target] = self._states[source]
        if source in self._originals:
            self._originals[target] = self._originals[source]

    def set_initial_state(self, slot: int, state: TensorState) -> None:
        self._states[slot] = self._intern(state)

    def is_set(self, slot: int) -> bool:
        return self.state(slot).grid is not None

    def _initial_state(self, sharding: Sharding) -> TensorState:
        algebra = self._algebras[sharding.grid]
        waiting: list[AxisRef] = []
        dims: list[Axes] = []
        closed: list[bool] = []
        for dim in sharding.dims:
            axes = tuple(algebra.canonical(axis) for axis in dim.axes)
            if dim.priority:
                waiting += axes
                dims.append(())
                closed.append(True)
            else:
                dims.append(axes)
                closed.append(not dim.is_open)
        replicated = [algebra.canonical(axis) for axis in sharding.replicated]
        if waiting:
            order = self.grids[sharding.grid].axis_names
            replicated = sorted(
                replicated + waiting, key=lambda axis: (order.index(axis.name), axis.pre)
            )
        return TensorState(
            sharding.grid, tuple(dims), tuple(closed), tuple(replicated), sharding.partial
        )

    def drop_open_sub_axes(self, slot: int) -> None:
        """Leaves out sub-axes, and what is minor to them, of dimensions that the user left open.

        For the boundary of the program: a NamedSharding cannot name a part of an axis.
        """
        state_id = self._states[slot]
        found = self._without_sub_axes.get(state_id)
        if found is None:
            state = self._table[state_id]
            dims = tuple(
                axes if is_closed else tuple(takewhile(lambda axis: axis.is_whole, axes))
                for axes, is_closed in zip(state.dims, state.closed, strict=True)
            )
            found = self._without_sub_axes[state_id] = self._intern(state._replace(dims=dims))
        self._states[slot] = found

    # The fixed point

    def run(self) -> None:
        """Propagates priority by priority until nothing changes.

        A node that nothing happens to at a priority is not visited: it came to rest at the last
        level of the one before, which includes all levels.
        """
        count = len(self.graph.node_slots)
        self._dirty, self._touched = bytearray(count), bytearray(count)
        annotated = [state.grid is not None for state in self._table]
        for slot, state in enumerate(self._states):
            if annotated[state]:
                self._mark(slot)
        self._propagate_levels()
        priorities = {
            dim.priority for s in self._originals.values() for dim in s.dims if dim.priority
        }
        for priority in sorted(priorities):
            self._dirty, self._touched = bytearray(count), bytearray(count)
            for slot, original in self._originals.items():
                self._admit(slot, original, priority)
            self._propagate_levels()

    def _admit(self, slot: int, original: Sharding, priority: int) -> None:
        """Gives the dimensions of this priority their axes back."""
        if all(dim.priority != priority for dim in original.dims):
            return
        state = self.state(slot)
        algebra = self._algebras[original.grid]
        dims, closed = list(state.dims), list(state.closed)
        seen: set[AxisRef] = set()
        for index, dim in enumerate(original.dims):
            if dim.priority == priority:
                dims[index] = tuple(algebra.canonical(axis) for axis in dim.axes)
                closed[index] = not dim.is_open
                seen.update(dims[index])
        self._states[slot] = self._intern(
            state._replace(
                dims=tuple(dims),
                closed=tuple(closed),
                replicated=tuple(axis for axis in state.replicated if axis not in seen),
            )
        )
        self._mark(slot)

    def _propagate_levels(self) -> None:
        dirty, touched = self._dirty, self._touched
        self._propagate_function_results()
        for level in range(LEVELS):
            for index in self._joining[level]:
                if touched[index]:
                    dirty[index] = 1
            self._visit_all(level)
            self._propagate_function_results()

    @cached_property
    def _joining(self) -> list[list[int]]:
        """For each level the nodes that may do more at it than at the one before."""
        profiles, levels = self.graph.node_profiles, self.graph.profiles.levels
        joining: list[list[int]] = [[]]
        for level in range(1, LEVELS):
            more = [variants[level] != variants[level - 1] for variants in levels]
            joining.append([node for node, profile in enumerate(profiles) if more[profile]])
        return joining

    def _mark(self, slot: int) -> None:
        for node in self.graph.notify[slot]:
            self._dirty[node] = self._touched[node] = 1

    def _propagate_function_results(self) -> None:
        """Joins each returned value with the function's result."""
        graph, states = self.graph, self._states
        for _, joined in graph.functions:
            for pair in joined:
                variant = graph.profiles.joining(graph.ranks[pair[0]])
                for index, new in self._step(variant, (variant, states[pair[0]], states[pair[1]])):
                    for slot in graph.groups.get(pair[index], (pair[index],)):
                        states[slot] = new
                        self._mark(slot)

    def _visit_all(self, level: int) -> None:
        graph, states, dirty, steps = self.graph, self._states, self._dirty, self._steps
        notify, groups, touched = graph.notify, graph.groups, self._touched
        settling = self._settling
        slots_of, profile_of = graph.node_slots, graph.node_profiles
        variant_of = [variants[level] for variants in graph.profiles.levels]
        for _ in range(_MAX_ROUNDS):
            changed = False
            stack: list[int] = []
            waiting: set[int] = set()
            cursor = -1
            while True:
                if stack:
                    index = stack.pop()
                    waiting.discard(index)
                else:
                    index = cursor = dirty.find(1, cursor + 1)
                    if index < 0:
                        break
                dirty[index] = 0
                variant = variant_of[profile_of[index]]
                if variant < 0:
                    continue
                slots = slots_of[index]
                key = (variant, *map(states.__getitem__, slots))
                updates = steps.get(key)
                if updates is None:
                    updates = self._step(variant, key)
                if not updates:
                    continue
                changed = True
                for position, new in updates:
                    slot = slots[position]
                    members = groups.get(slot)
                    for member in (slot,) if members is None else (slot, *members):
                        states[member] = new
                        for node in notify[member]:
                            if node == index:
                                continue
                            dirty[node] = touched[node] = 1
                            if node <= cursor and node not in waiting:
                                waiting.add(node)
                                stack.append(node)
                if key not in settling or len(set(slots)) < len(slots):
                    # In the next round, since what it did may allow it more.
                    dirty[index] = 1
            if not changed:
                break

    def _step(self, variant: int, key: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
        known = self._steps.get(key)
        if known is None:
            known = self._steps[key] = self._compute(self.graph.profiles.variants[variant], key[1:])
            if known and not self.graph.groups:
                after = list(key)
                for position, new in known:
                    after[position + 1] = new
                if not self._step(variant, tuple(after)):
                    self._settling.add(key)
        return known

    def _compute(self, variant: Variant, ids: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
        states = [self._table[i] for i in ids]
        grids = {state.grid for state in states if state.grid is not None}
        border = None if variant.manual is None else Border(variant.manual)
        if border is not None:
            grids.add(border.sharding.grid)
            states[-1] = border.seen_by_sources(states[-1])
        if len(grids) != 1:
            return ()
        changes = propagate_step(variant.step, states, self._algebras[grids.pop()])
        result: list[tuple[int, int]] = []
        for index, state in changes:
            if border is not None and index == len(states) - 1:
                state = border.seen_by_target(state)
            new = self._intern(state)
            if new != ids[index]:
                result.append((index, new))
        return tuple(result)


def _open_state(rank: int) -> TensorState:
    return TensorState(None, ((),) * rank, (False,) * rank)


def closed_sharding(state: TensorState, grid: str) -> Sharding:
    """The sharding that a state ends as: closed, without priorities."""
    return Sharding(
        state.grid or grid,
        tuple(DimSharding(axes) for axes in state.dims),
        state.replicated,
        state.partial,
    )
