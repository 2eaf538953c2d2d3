"""Prices in seconds: roofline compute, alpha-beta collectives.

Compute takes max(FLOPs / FLOPs a second, bytes / memory bandwidth) (Williams, Waterman, Patterson
2009, "Roofline"), where convolutions may reach a share of the FLOPs a second that hangs on their
width, and operations on elements have rates of their own. A collective takes alpha for each grid
axis that it runs over, and beta for each byte that a device sends by the ring algorithms of
`collectives.py` (the Hockney model, as in Thakur, Rabenseifner, Gropp 2005).

A collective over several axes is one XLA collective (`to_stablehlo`), whatever the price: its
group is the product of the axes. How its bytes spread over the axes' links is up to the library;
the cheapest order of axes is taken, which is what rings and exchanges that know the topology reach
(Cho et al. 2019, "BlueConnect"; NCCL's rings leave a host once):

    all_gather       the dearest axis first: what crosses it is not gathered yet
    reduce_scatter   the dearest axis last: what crosses it is scattered already
    all_reduce       such a reduce_scatter and the all_gather back
    all_to_all       straight to the receiver: what goes to another coordinate of the dearest axis
                     crosses it, of the rest what goes to another of the next one, …

The bytes of all axes add up to the ring bytes of the whole group, in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from autopar.dialects.sharding import AxisRef, Grid, parse_axis

from .cluster import MOST_SECONDS, Cluster, ClusterError, Device, Link
from .collectives import (
    all_gather_bytes,
    all_reduce_bytes,
    all_to_all_bytes,
    one_root_bytes,
    permute_bytes,
    reduce_scatter_bytes,
)

Objective = Literal["time", "communication"]


def check_overrides(alpha: Sequence[float] | None, beta: Sequence[float] | None) -> None:
    """ClusterError where the seconds of a message or of a byte cannot be."""
    for name, values in (("alpha", alpha), ("beta", beta)):
        for value in values or ():
            if not 0 <= value <= MOST_SECONDS:
                raise ClusterError(
                    f"{name}={','.join(f'{value:g}' for value in values or ())}: {value:g} is no "
                    f"number of seconds from 0 to {MOST_SECONDS:g}"
                )


class Operations(NamedTuple):
    """Operations on elements."""

    simple: float = 0.0
    """As additions of two f32 are; of narrower elements a device does more at once."""
    functions: float = 0.0
    """Exponentials and the like."""

    @staticmethod
    def total(parts: Iterable[Operations]) -> Operations:
        """All of them."""
        simple = functions = 0.0
        for part in parts:
            simple += part.simple
            functions += part.functions
        return Operations(simple, functions)


class GridLinks:
    """What messages along the axes of a grid cost on a cluster.

    Device i of the cluster is the grid's i-th, row-major. An axis pays the outermost link that it
    crosses: the innermost one whose blocks hold every group of the axis. `alpha` and `beta`
    override by axis, in the grid's order; one number all axes. ClusterError: the grid is too large
    for the cluster, or an override has another length than the grid.
    """

    def __init__(
        self,
        cluster: Cluster,
        grid: Grid,
        alpha: Sequence[float] | None = None,
        beta: Sequence[float] | None = None,
    ) -> None:
        if grid.num_devices > cluster.num_devices:
            shape = "x".join(map(str, grid.shape))
            raise ClusterError(
                f"grid {shape} has {grid.num_devices} devices, the last link of cluster "
                f"{cluster.name} joins {cluster.num_devices}: choose a smaller grid, or a cluster "
                "with a link of that size"
            )
        check_overrides(alpha, beta)
        for name, values in (("alpha", alpha), ("beta", beta)):
            if values is not None and len(values) not in (1, len(grid.axes)):
                raise ClusterError(
                    f"{name}={','.join(f'{value:g}' for value in values)}: {len(values)} values "
                    f"for the {len(grid.axes)} axes of the grid; give one for each, or one for all"
                )
        self.cluster, self.grid = cluster, grid
        self._alpha, self._beta = _by_axis(alpha, grid), _by_axis(beta, grid)
        self._links: dict[AxisRef, Link] = {}

    def size(self, axis: AxisRef | str) -> int:
        """Devices along an axis or sub-axis, by its spelling (`x`, `x:(1)2`)."""
        return self.grid.axis_size(_ref(axis))

    def alpha(self, axis: AxisRef | str) -> float:
        """Seconds a message along an axis; KeyError if the grid has no such axis."""
        return self._link(_ref(axis)).alpha

    def beta(self, axis: AxisRef | str) -> float:
        """Seconds a byte that a device sends along an axis."""
        return self._link(_ref(axis)).beta

    def _link(self, axis: AxisRef) -> Link:
        known = self._links.get(axis)
        if known is None:
            crossed = self._crossed(axis)
            index = self.grid.axis_names.index(axis.name)
            alpha = crossed.alpha if self._alpha is None else self._alpha[index]
            beta = crossed.beta if self._beta is None else self._beta[index]
            known = self._links[axis] = Link(crossed.size, alpha, beta)
        return known

    def _crossed(self, axis: AxisRef) -> Link:
        if axis.name not in self.grid.sizes:
            raise KeyError(f"grid @{self.grid.name} has no axis {axis.name}")
        groups = self.grid.groups([axis])
        for link in self.cluster.links:
            if all(group[0] // link.size == group[-1] // link.size for group in groups):
                return link
        return self.cluster.links[-1]


def _by_axis(values: Sequence[float] | None, grid: Grid) -> Sequence[float] | None:
    """One number stands for all axes."""
    return values if values is None or len(values) > 1 else [values[0]] * len(grid.axes)


def _ref(axis: AxisRef | str) -> AxisRef:
    return parse_axis(axis) if isinstance(axis, str) else axis


@dataclass(frozen=True)
class _Kind:
    """How the bytes of a collective spread over its axes."""

    ring_bytes: Callable[[float, int], float]
    dearest_first: bool
    growth: int
    """The power of an axis' size by which it grows the buffer for the next axis."""


_GATHER = _Kind(all_gather_bytes, True, 1)
_REDUCE = _Kind(all_reduce_bytes, False, -1)
_KINDS: Mapping[str, _Kind] = {
    "all_reduce": _REDUCE,
    "all_gather": _GATHER,
    "reduce_scatter": _Kind(reduce_scatter_bytes, False, -1),
    "all_to_all": _Kind(all_to_all_bytes, True, -1),
    # as convert-shard-to-stablehlo lowers them: each device gets what the root is to have
    "broadcast": _GATHER,
    "gather": _GATHER,
    "scatter": _GATHER,
    "reduce": _REDUCE,
    "cross-replica-sum": _REDUCE,
}
_ONE_HOP: Mapping[str, Callable[[float, int], float]] = {
    "permute": lambda num_bytes, _: permute_bytes(num_bytes),
    "shift": lambda num_bytes, _: permute_bytes(num_bytes),
    "collective_broadcast": one_root_bytes,
    "collective_reduce": one_root_bytes,
}
"""Collectives that move one buffer over the dearest axis, whatever the number of axes."""
FREE = frozenset({"all_slice"})
"""Collectives that send nothing."""


@dataclass(frozen=True)
class CostModel:
    """What ops and collectives of one device cost in seconds."""

    links: GridLinks
    objective: Objective = "time"
    """`communication`: collectives alone; compute and memory are free."""

    @staticmethod
    def of(
        cluster: Cluster,
        grid: Grid,
        alpha: Sequence[float] | None = None,
        beta: Sequence[float] | None = None,
        objective: Objective = "time",
    ) -> CostModel:
        """The prices of a grid on a cluster; ClusterError as `GridLinks` has it."""
        return CostModel(GridLinks(cluster, grid, alpha, beta), objective)

    def compute_seconds(
        self, flops: float, num_bytes: float, dtype: str, features: float | None = None
    ) -> float:
        """A dot or convolution of `flops` FLOPs in elements `dtype` that reads and writes
        `num_bytes`; `features`: a convolution's output features, those of one group."""
        if self.objective == "communication":
            return 0.0
        rate = self._device.flops_per_second(dtype)
        if features is not None:
            rate *= self._device.convolution_share(features)
        return max(flops / rate, self.memory_seconds(num_bytes))

    def memory_seconds(self, num_bytes: float) -> float:
        """Reading and writing `num_bytes` in all: linear in these, as what devices share is divided
        among them afterwards."""
        if self.objective == "communication":
            return 0.0
        return num_bytes / self._device.memory_bandwidth

    def elementwise_seconds(self, operations: Operations) -> float:
        """Operations on elements, where the cluster states how many a device does; a fusion takes
        these or those of its bytes, whichever are more."""
        if self.objective == "communication":
            return 0.0
        simple = operations.simple / self._device.elementwise
        return simple + operations.functions / self._device.transcendental

    @property
    def _device(self) -> Device:
        return self.links.cluster.device

    def collective_seconds(
        self, kind: str, local_bytes: float, axes: Iterable[AxisRef | str]
    ) -> float:
        """A collective over grid axes; `local_bytes`: what each device puts in (an all_reduce's
        buffer, an all_gather's part). Affine in the bytes: what is planned and what is merged
        splits it into a message and a rate. KeyError for a kind that does not exist, and for an
        axis, unless the kind sends nothing."""
        return sum(
            self.links.alpha(axis) + self.links.beta(axis) * num_bytes
            for axis, num_bytes in self.axis_bytes(kind, local_bytes, axes)
        )

    def axis_bytes(
        self, kind: str, local_bytes: float, axes: Iterable[AxisRef | str]
    ) -> list[tuple[AxisRef | str, float]]:
        """The ring bytes that a device sends along each axis (those of one device left out)."""
        if kind in FREE:
            return []
        links = self.links
        order = sorted((a for a in axes if links.size(a) > 1), key=links.beta, reverse=True)
        if kind in _ONE_HOP:
            first = order[:1]
            shares = [(axis, _ONE_HOP[kind](local_bytes, links.size(axis))) for axis in first]
            return shares + [(axis, 0.0) for axis in order[1:]]
        rule = _KINDS[kind]
        shares: list[tuple[AxisRef | str, float]] = []
        buffer = local_bytes
        for axis in order if rule.dearest_first else reversed(order):
            size = links.size(axis)
            shares.append((axis, rule.ring_bytes(buffer, size)))
            buffer *= float(size) ** rule.growth
        return shares
