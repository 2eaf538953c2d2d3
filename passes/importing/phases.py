"""The phases of a training step (forward, backward, update), as JAX's name stack tells them in
locations."""

from __future__ import annotations

from collections.abc import Iterable

from xdsl.dialects.builtin import NameLoc
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute, Operation

from autopar.dialects.diagnostics import location_parts
from autopar.dialects.stablehlo import WhileOp
from autopar.passes.walk import sharded_ops


class PhaseNames:
    """The phases of ops, by the name stacks in their locations; many ops share (parts of) one."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Attribute, str]] = {}
        self._outermost: dict[int, tuple[Attribute, str]] = {}

    def outermost(self, op: Operation) -> str:
        """As `of`, by the outermost transformation alone: a gradient that is taken inside a
        function which is differentiated belongs to that function's forward phase."""
        known = self._outermost.get(id(op.location))
        if known is None:
            known = self._outermost[id(op.location)] = op.location, _outermost(op.location)
        return known[1]

    def of(self, op: Operation) -> str:
        """forward, backward or update."""
        location = op.location
        known = self._known.get(id(location))
        return self._of_location(location) if known is None else known[1]

    def _of_location(self, location: Attribute) -> str:
        """The phase that the names of a location tell."""
        known = self._known.get(id(location))
        if known is not None:
            return known[1]
        is_name = isinstance(location, NameLoc)
        phase = _phase_of_name(location.desc.data) if is_name else "update"
        for part in location_parts(location):
            phase = min(phase, self._of_location(part), key=_PHASES.index)
        self._known[id(location)] = (location, phase)
        return phase


class Phases(PhaseNames):
    """The phase of each op, and program order.

    What JAX takes out of a scan or computes ahead has lost its phase's name: it is of the phase
    that reads it.
    """

    def __init__(self, func: FuncOp) -> None:
        super().__init__()
        ops = list(sharded_ops(func))
        self._position = dict(zip(map(id, ops), range(len(ops)), strict=True))
        """The place of each op in program order, by id()."""
        self.loops = [op for op in ops if op.__class__ is WhileOp]
        self._steps: dict[Operation, bool] = {}
        self._of_update: set[Operation] = set()
        """Ops without a phase's name that no other phase reads."""

    def of(self, op: Operation) -> str:
        phase = super().of(op)
        return phase if phase != "update" else self._of_readers(op)

    def _of_readers(self, op: Operation) -> str:
        """The phase that reads what an op without a phase's name computes, directly or not."""
        seen, stack = {op}, [op]
        while stack:
            for result in stack.pop().results:
                for use in result.uses:
                    user = use.operation
                    if user in seen or user in self._of_update:
                        continue
                    phase = super().of(user)
                    if phase != "update":
                        return phase
                    seen.add(user)
                    stack.append(user)
        self._of_update |= seen
        return "update"

    def position(self, op: Operation) -> int:
        """The op's place in program order."""
        return self._position[id(op)]

    def holds_steps(self, loop: Operation) -> bool:
        """Whether each iteration of the loop has a forward and a backward phase."""
        known = self._steps.get(loop)
        if known is None:
            found = {self.of(op) for op in sharded_ops(loop)}
            known = self._steps[loop] = {"forward", "backward"} <= found
        return known

    def first(self, ops: Iterable[Operation]) -> Operation:
        """The op that comes first; all stand in the same block."""
        return min(ops, key=lambda op: self._position[id(op)])


_PHASES = ("backward", "forward", "update")
"""The phases; where the names of an op tell several, the first of them holds."""


def _outermost(location: Attribute) -> str:
    name = location.desc.data if isinstance(location, NameLoc) else ""
    backward, forward = name.find("transpose("), name.find("jvp(")
    if backward >= 0 or forward >= 0:
        return "backward" if 0 <= backward < forward or forward < 0 else "forward"
    parts = (_outermost(part) for part in location_parts(location))
    return next((phase for phase in parts if phase != "update"), "update")


def _phase_of_name(name: str) -> str:
    """The phase that one of JAX's name stacks tells."""
    if "transpose(" in name or "rematted_computation" in name:
        return "backward"
    return "forward" if "jvp(" in name else "update"
