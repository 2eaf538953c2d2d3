"""The order in which a block runs: depth first from its results, as XLA:CPU runs what it compiles.

XLA keeps no order of the program but what needs what. Its `DFSMemoryScheduler` visits operands in
front of what reads them, of several first the one that more others read too, counted with all that
it needs, then the one of more bytes. So what only a result needs, as a loss that is returned beside
the new state, may run last, and what it reads is in memory until then. (On GPUs XLA takes this
order, or another one that it estimates to need less.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import chain

from xdsl.ir import Operation, SSAValue

from autopar.dialects.rules.access import operands_of
from autopar.dialects.rules.regions import BARRIER
from autopar.dialects.tensors import num_bytes
from autopar.passes.walk import post_order

from .fusion import Fusion
from .handover import Handover, donated, handover_of
from .merging import Step


class RunOrder:
    """The steps of a block by their numbers, what they need, and in which order they run."""

    def __init__(self, fusion: Fusion) -> None:
        self._fusion = fusion
        self._steps = fusion.steps
        self.ops = [list(chain(*step)) if len(step) > 1 else step[0] for step in self._steps]
        self._maker: dict[SSAValue, int] = {}
        self._written: list[list[SSAValue]] = []
        for number, ops in enumerate(self.ops):
            written: list[SSAValue] = []
            for op in ops:
                written += fusion.written(op)
                for value in op.results:
                    self._maker[value] = number
            self._written.append(written)
        self._awaits: list[dict[SSAValue, None]] = []
        self._behind: list[dict[SSAValue, None]] = []
        self._made: list[Sequence[int]] = []
        """The steps that make what a step awaits."""
        self._makers: list[Sequence[int]] = []
        """The steps that make what a step awaits, and the barriers behind which it reads."""
        for ops in self.ops:
            self._add_needs(ops)
        last = len(self._steps) - 1
        self._roots = [last, *range(last)]
        self._sources_first = post_order(self._roots, self._makers.__getitem__, set())
        self.handover = self._find_handover()
        self._copied = self.handover.copied
        self._ranks = self._find_ranks()

    def _add_needs(self, ops: Sequence[Operation]) -> None:
        """What a step awaits."""
        awaited: dict[SSAValue, None] = {}
        behind: dict[SSAValue, None] = {}
        for op in ops:
            values, barriers = self._fusion.awaits(op)
            if values:
                awaited.update(dict.fromkeys(values))
            if barriers:
                behind.update(dict.fromkeys(barriers))
        made = self._made_by(awaited) if awaited else ()
        self._awaits.append(awaited)
        self._behind.append(behind)
        self._made.append(made)
        self._makers.append([*dict.fromkeys((*made, *self._made_by(behind)))] if behind else made)

    def steps(self) -> list[Step]:
        """What runs together, in the order in which it runs. What is computed inside others stands
        in front of the first of them."""
        return [self._steps[number] for number in post_order(self._runs, self._inside, set())]

    def is_inside(self, step: Step) -> bool:
        """Whether a step is computed inside others, or another name of what it reads."""
        op = step[0][0]
        return len(step) == len(step[0]) == 1 and bool(op.results) and not self._fusion.written(op)

    def runs(self) -> list[int]:
        """The numbers of the steps that read or write memory, in the order in which they run."""
        return [
            number
            for number in self._runs
            if self._written[number] or self._awaits[number] or self._behind[number]
        ]

    def _reads(self, number: int) -> Iterable[SSAValue]:
        """The kept values that a step reads, by whatever name, or awaits."""
        awaits, behind = self._awaits[number], self._behind[number]
        if not behind:
            return awaits
        names = (self._fusion.name(value) for value in behind)
        return dict.fromkeys([*awaits, *(name for name in names if name is not None)])

    @cached_property
    def _runs(self) -> list[int]:
        return post_order(self._roots, self._by_rank, set())

    def _find_handover(self) -> Handover:
        """The results that take the memory of arguments, and what XLA copies, but where the program
        itself orders the readers of an argument before its result."""
        last = len(self._steps) - 1
        readers: dict[SSAValue, list[int]] = {argument: [] for argument in donated(self._fusion)}
        if not readers:
            return Handover({})
        for number in range(last):
            for value in self._reads(number):
                if value in readers:
                    readers[value].append(number)
        bits = [0] * len(self._steps)
        for index, number in enumerate(sorted({n for found in readers.values() for n in found})):
            bits[number] = 1 << index
        needs = [0] * len(self._steps)
        for number in self._sources_first:
            needed = 0
            for maker in self._makers[number]:
                needed |= needs[maker] | bits[maker]
            needs[number] = needed
        needs.append(0)  # of the step -1, which is none

        def is_before(number: int, writer: int) -> bool:
            return bool(needs[writer] & bits[number])

        return handover_of(self._fusion, self._maker, readers, is_before)

    def _find_ranks(self) -> list[tuple[int, int]]:
        """Of each step how many others read what it and all that it needs write, but for one of
        each, and the bytes of these; what is needed several times counts as often. Negative: more
        comes first."""
        users = Counter(chain(*self._awaits, *self._behind))
        counts, sizes = [0] * len(self._steps), [0] * len(self._steps)
        arguments = {v for values in self._awaits for v in values if v not in self._maker}
        most = sum(map(bool, self._written)) + len(arguments) + len(self._copied)
        met: set[SSAValue] = set()
        bytes_met = 0
        for number in self._sources_first:
            written = self._written[number]
            if not (written or self._awaits[number] or self._behind[number]):
                continue  # computed inside others
            count = max(0, sum(users.get(value, 0) for value in written) - 1)
            size = sum(num_bytes(value.type) for value in written)
            bytes_met += size
            if self.ops[number][0].name == BARRIER:
                count = sum(value in users for value in self.ops[number][0].results) - 1
            if self._copied:
                copies = self._copied & self._awaits[number].keys()
                count += sum(users[value] - 1 for value in copies)
                size += sum(num_bytes(value.type) for value in copies)
                bytes_met += sum(num_bytes(value.type) for value in copies - met)
                met.update(copies)
            for maker in self._made[number]:
                count += counts[maker]
                size += sizes[maker]
            for value in self._behind[number]:
                maker = self._maker[value]
                count += users[value] - 1 + counts[maker]
                size += sizes[maker]
            # Every path to a step counts, and paths are many: no more than ops, and bytes met.
            counts[number], sizes[number] = min(count, most), min(size, bytes_met)
        return [(-count, -size) for count, size in zip(counts, sizes, strict=True)]

    def _made_by(self, values: Iterable[SSAValue]) -> list[int]:
        """The steps that make values."""
        found = dict.fromkeys(map(self._maker.get, values))
        return [maker for maker in found if maker is not None]

    def _by_rank(self, number: int) -> Sequence[int]:
        makers = self._makers[number]
        if len(makers) < 2:
            return makers
        return sorted(makers, key=lambda maker: (self._ranks[maker], maker))

    def _inside(self, number: int) -> list[int]:
        """The steps that are computed inside a step, or inside one of these."""
        operands = (operand for op in self.ops[number] for operand in operands_of(op))
        found = (self._maker.get(operand) for operand in operands)
        makers = dict.fromkeys(maker for maker in found if maker is not None)
        return [maker for maker in makers if not self._written[maker]]
