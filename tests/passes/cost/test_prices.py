"""Prices worked by hand: axes on links, roofline, collectives over one and several axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from math import prod

import pytest

from autopar.dialects.sharding import AxisRef, Grid
from autopar.passes.cost.cluster import Cluster, ClusterError, Device, Link
from autopar.passes.cost.collectives import all_gather_bytes, all_reduce_bytes
from autopar.passes.cost.prices import CostModel, GridLinks
from autopar.passes.cost.report import RING_BYTES, collective_kind

CLUSTER = Cluster(
    "test",
    Device("d", {"f32": 1e12, "bf16": 4e12}, 10**9, 1e11),
    (Link(8, 1e-5, 1e-10), Link(16, 1e-4, 1e-8)),
)
"""Hosts of 8, two of them."""


def grid(*shape: int) -> Grid:
    return Grid("g", tuple(zip("abc", shape, strict=False)))


def model(*shape: int, **options: Sequence[float]) -> CostModel:
    return CostModel.of(CLUSTER, grid(*shape), options.get("alpha"), options.get("beta"))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((8,), {"a": 8}),
        ((16,), {"a": 16}),
        ((2, 4), {"a": 8, "b": 8}),
        ((2, 8), {"a": 16, "b": 8}),
        ((4, 4), {"a": 16, "b": 8}),
        ((8, 2), {"a": 16, "b": 8}),
        ((2, 2, 4), {"a": 16, "b": 8, "c": 8}),
        ((1, 16), {"a": 8, "b": 16}),
        ((3, 5), {"a": 16, "b": 16}),  # the second group of 5 lies on both hosts
    ],
)
def test_an_axis_pays_the_outermost_link_that_it_crosses(
    shape: tuple[int, ...], expected: dict[str, int]
) -> None:
    links = GridLinks(CLUSTER, grid(*shape))
    by_size = {link.size: link for link in CLUSTER.links}
    for axis, size in expected.items():
        assert (links.alpha(axis), links.beta(axis)) == (by_size[size].alpha, by_size[size].beta)


def test_sub_axes_pay_what_they_cross() -> None:
    links = GridLinks(CLUSTER, grid(16))
    assert links.beta(AxisRef("a", 1, 2)) == 1e-8  # major: from host to host
    assert links.beta("a:(2)8") == 1e-10
    assert links.size("a:(2)8") == 8
    assert GridLinks(CLUSTER, grid(16), beta=[7.0]).beta("a:(2)8") == 7.0


def test_overrides_by_axis() -> None:
    links = GridLinks(CLUSTER, grid(2, 8), alpha=[1.0, 2.0], beta=[3.0, 4.0])
    assert [links.alpha("a"), links.alpha("b")] == [1.0, 2.0]
    assert [links.beta("a"), links.beta("b")] == [3.0, 4.0]
    links = GridLinks(CLUSTER, grid(2, 8), beta=[3.0, 4.0])
    assert [links.alpha("a"), links.alpha("b")] == [1e-4, 1e-5]
    links = GridLinks(CLUSTER, grid(2, 8), alpha=[5.0])
    assert [links.alpha("a"), links.alpha("b")] == [5.0, 5.0]


def test_errors() -> None:
    with pytest.raises(ClusterError) as error:
        GridLinks(CLUSTER, grid(4, 8))
    assert str(error.value) == (
        "grid 4x8 has 32 devices, the last link of cluster test joins 16: choose a smaller grid, "
        "or a cluster with a link of that size"
    )
    with pytest.raises(ClusterError) as error:
        GridLinks(CLUSTER, grid(2, 4), beta=[1.0, 2.0, 3.0])
    assert (
        str(error.value)
        == "beta=1,2,3: 3 values for the 2 axes of the grid; give one for each, or one for all"
    )
    with pytest.raises(ClusterError) as error:
        GridLinks(CLUSTER, grid(2), alpha=[-1.0])
    assert str(error.value) == "alpha=-1: -1 is no number of seconds from 0 to 1000"
    with pytest.raises(KeyError, match="grid @g has no axis z"):
        GridLinks(CLUSTER, grid(2)).beta("z")
    with pytest.raises(KeyError, match="all_dance"):
        model(2).collective_seconds("all_dance", 1, ["a"])


def test_roofline() -> None:
    prices = model(8)
    assert prices.compute_seconds(2e12, 1e9, "f32") == 2.0
    assert prices.compute_seconds(2e12, 1e9, "f16") == 0.5
    assert prices.compute_seconds(1e6, 1e11, "f32") == 1.0
    assert prices.memory_seconds(5e10) == 0.5


def test_narrow_convolutions_stay_below_matmuls() -> None:
    device = replace(CLUSTER.device, convolution={16: 0.25, 64: 1.0})
    prices = CostModel.of(replace(CLUSTER, device=device), grid(8))
    assert prices.compute_seconds(1e12, 0, "f32", 16) == 4.0
    assert prices.compute_seconds(4e12, 0, "bf16", 8) == 4.0
    assert prices.compute_seconds(1e12, 0, "f32", 64) == prices.compute_seconds(1e12, 0, "f32")
    assert prices.compute_seconds(1e9, 1e11, "f32", 16) == 1.0, "memory bounds it as before"
    assert model(8).compute_seconds(1e12, 0, "f32", 16) == 1.0


def test_communication_is_all_that_counts() -> None:
    links = GridLinks(CLUSTER, grid(8))
    prices = CostModel(links, "communication")
    assert prices.compute_seconds(1e12, 1e12, "f32") == prices.memory_seconds(1e12) == 0
    seconds = prices.collective_seconds("all_reduce", 8e6, ["a"])
    assert seconds == CostModel(links).collective_seconds("all_reduce", 8e6, ["a"])
    assert seconds == pytest.approx(1e-5 + 2 * 7 / 8 * 8e6 * 1e-10)


@pytest.mark.parametrize(
    ("kind", "ring_bytes"),
    [
        ("all_reduce", 2 * 3 / 4 * 1000),
        ("all_gather", 3 * 1000),
        ("reduce_scatter", 3 / 4 * 1000),
        ("all_to_all", 3 / 4 * 1000),
        ("permute", 1000),
        ("shift", 1000),
    ],
)
def test_one_axis(kind: str, ring_bytes: float) -> None:
    prices = model(2, 4)
    assert prices.collective_seconds(kind, 1000, ["b"]) == pytest.approx(1e-5 + ring_bytes * 1e-10)


def test_what_is_free() -> None:
    prices = model(1, 8)
    assert prices.collective_seconds("all_slice", 1e9, ["a", "b"]) == 0
    assert prices.collective_seconds("all_reduce", 1e9, ["a"]) == 0  # one device
    assert prices.collective_seconds("all_reduce", 1e9, []) == 0


TWO_HOSTS = {
    # on 2 hosts x 8: bytes along a (between hosts), along b (inside)
    "all_gather": (1 * 1000, 7 * 2000),
    "reduce_scatter": (1 / 2 * 125, 7 / 8 * 1000),
    "all_reduce": (2 * 1 / 2 * 125, 2 * 7 / 8 * 1000),
    "all_to_all": (1 / 2 * 1000, 7 / 8 * 500),
    "permute": (1000, 0),
}


@pytest.mark.parametrize("kind", TWO_HOSTS)
@pytest.mark.parametrize("axes", ["ab", "ba"])
def test_two_axes_in_the_cheapest_order(kind: str, axes: str) -> None:
    prices = model(2, 8)
    outer, inner = TWO_HOSTS[kind]
    expected = 1e-4 + 1e-5 + outer * 1e-8 + inner * 1e-10
    assert prices.collective_seconds(kind, 1000, axes) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["all_gather", "reduce_scatter", "all_reduce"])
@pytest.mark.parametrize("betas", list(permutations((1.0, 5.0, 25.0))))
def test_no_order_of_axes_is_cheaper(kind: str, betas: tuple[float, ...]) -> None:
    shape = (2, 3, 4)
    cluster = Cluster("c", CLUSTER.device, (Link(24, 0.0, 0.0),))
    prices = CostModel.of(cluster, grid(*shape), beta=betas)
    found = prices.collective_seconds(kind, 1.0, "abc")
    costs: list[float] = []
    for order in permutations(range(3)):
        buffer, cost = 1.0, 0.0
        for axis in order:
            size = shape[axis]
            sent = {
                "all_gather": (size - 1) * buffer,
                "reduce_scatter": (size - 1) / size * buffer,
                "all_reduce": 2 * (size - 1) / size * buffer,
            }[kind]
            cost += betas[axis] * sent
            buffer *= size if kind == "all_gather" else 1 / size
        costs.append(cost)
    assert found == pytest.approx(min(costs))


@pytest.mark.parametrize("shape", [(2, 4), (4, 2), (2, 8), (2, 2, 4)])
def test_bytes_of_axes_are_those_of_the_group(shape: tuple[int, ...]) -> None:
    prices = model(*shape)
    axes, group = "abc"[: len(shape)], prod(shape)

    def total(kind: str) -> float:
        return sum(sent for _, sent in prices.axis_bytes(kind, 64.0, axes))

    assert total("all_reduce") == pytest.approx(all_reduce_bytes(64.0, group))
    assert total("all_gather") == pytest.approx(all_gather_bytes(64.0, group))
    assert total("reduce_scatter") == pytest.approx((group - 1) / group * 64)
    assert total("all_to_all") == pytest.approx((group - 1) / group * 64)
    assert total("permute") == 64


@pytest.mark.parametrize("name", sorted(RING_BYTES))
def test_every_collective_that_is_counted_has_a_price(name: str) -> None:
    """And both count the same bytes."""
    prices = model(2, 4)
    (share,) = prices.axis_bytes(collective_kind(name), 640.0, ["b"])
    assert share == ("b", pytest.approx(RING_BYTES[name](640.0, 4)))
