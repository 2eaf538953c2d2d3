"""What benchmarks/ read in compiled HLO is what tiny programs do."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from autopar.passes.cost.cluster import read_cluster
from autopar.passes.cost.prices import CostModel, Operations
from autopar.passes.cost.report import paid_axes
from autopar.passes.importing.grid_option import parse_grid
from benchmarks.hlo_bytes import HloUse, uses
from benchmarks.hlo_price import Work, work_of
from benchmarks.hlo_text import parse

GRID = parse_grid("2x4")
PRICES = CostModel.of(read_cluster("8xh100"), GRID)


def work(function: Callable[..., Any], *args: Any) -> Work:
    """Of a program as XLA compiles it; shapes may have shardings."""
    compiled = jax.jit(function).lower(*args).compile()
    return work_of(parse(compiled.as_text() or ""), GRID, PRICES)


def array(*shape: int, spec: P | None = None) -> jax.ShapeDtypeStruct:
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(GRID.shape), GRID.axis_names)
    sharding = None if spec is None else NamedSharding(mesh, spec)
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)


# ---- FLOPs and bytes -----------------------------------------------------------------------------


def test_a_dot() -> None:
    found = work(jnp.dot, array(64, 128), array(128, 256))
    num_bytes = 4 * (64 * 128 + 128 * 256 + 64 * 256)
    assert (found.flops, found.num_bytes) == (2 * 64 * 128 * 256, num_bytes)
    assert found.price.total == PRICES.compute_seconds(found.flops, num_bytes, "f32")


def test_loops_count_by_their_trips() -> None:
    def loop(w: Any, x: Any) -> Any:
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=7)[0]

    one = 2 * 32 * 64 * 64
    args = array(64, 64), array(32, 64)
    assert work(loop, *args).flops == 7 * one
    costs: Any = jax.jit(loop).lower(*args).compile().cost_analysis()
    assert one <= costs["flops"] < 2 * one  # XLA's own count has the body once


def test_branches_count_as_the_dearest() -> None:
    def branch(w: Any, x: Any) -> Any:
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ w @ w, lambda: x @ w)

    assert work(branch, array(64, 64), array(32, 64)).flops == 2 * 2 * 32 * 64 * 64


def convolution(w: Any, x: Any) -> Any:
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, w, (2, 2), "SAME", dimension_numbers=numbers)


def test_convolutions_count_what_meets() -> None:
    """Forward and both gradients of a strided convolution, as XLA counts them."""
    args = array(3, 3, 16, 32), array(8, 16, 16, 16)

    def gradients(w: Any, x: Any) -> Any:
        return jax.grad(lambda w, x: (convolution(w, x) ** 2).sum(), (0, 1))(w, x)

    met = 8 * 3 - 1  # 8 places of 3 elements along a dimension, the last at one of padding
    one = 2 * met * met * 8 * 32 * 16
    assert work(convolution, *args).flops == one
    assert work(gradients, *args).flops == 3 * one


def test_reading_a_row_is_not_reading_all() -> None:
    def row(x: Any, at: Any) -> Any:
        return 2 * jax.lax.dynamic_index_in_dim(x, at)

    at = jax.ShapeDtypeStruct((), jnp.int32)
    assert work(row, array(1024, 256), at).num_bytes < 5 * 4 * 256


def test_elements_pay_for_what_is_computed_in_a_fusion() -> None:
    def waves(x: Any) -> Any:
        for _ in range(12):
            x = jnp.tanh(x) + x
        return x

    found = work(waves, array(64, 64))
    assert found.num_bytes == 2 * 4 * 64 * 64
    operations = Operations(simple=12 * 64 * 64, functions=12 * 64 * 64)
    assert found.price.total == pytest.approx(PRICES.elementwise_seconds(operations))
    assert found.price.total > PRICES.memory_seconds(found.num_bytes)


def test_work_that_devices_repeat_counts_on_each() -> None:
    """An axis that splits nothing divides nothing."""
    w = array(128, 256, spec=P())
    whole = work(jnp.dot, array(64, 128, spec=P()), w).flops
    assert work(jnp.dot, array(64, 128, spec=P("y")), w).flops == whole / 4
    assert work(jnp.dot, array(64, 128, spec=P(("x", "y"))), w).flops == whole / 8


# ---- Collectives ---------------------------------------------------------------------------------


def test_bytes_by_grid_axes() -> None:
    """Partial sums along y, of what x splits."""
    found = work(jnp.dot, array(64, 128, spec=P("x", "y")), array(128, 256, spec=P("y")))
    part = 4 * 32 * 256
    assert found.sent == {("all_reduce", ("y",)): 2 * part * 3 / 4}
    assert found.messages == 1
    (seconds,) = found.price.communication.values()
    assert seconds == PRICES.collective_seconds("all_reduce", part, ["y"])


def test_collectives_in_loops() -> None:
    def loop(w: Any, x: Any) -> Any:
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=5)[0]

    found = work(loop, array(64, 64, spec=P("y")), array(32, 64, spec=P()))
    per_trip = [n / 5 for n in found.sent.values()]
    assert found.messages % 5 == 0
    assert found.messages > 0
    assert all(n == int(n) for n in per_trip)


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        ("[4,2]<=[2,4]T(1,0)", ("x",)),
        ("[2,4]<=[8]", ("y",)),
        ("{{0,4},{1,5},{2,6},{3,7}}", ("x",)),
        ("mesh['a'=2,'b'=1,'c'=4] {'a'}", ("x",)),
        ("mesh['a'=4,'b'=1,'c'=2], device_ids=([2,4]T(1,0)) {'a'}", ("y",)),
        ("mesh['a'=8] {'a':(2)4}", ("y",)),
        ("mesh['a'=8] {'a'}", ("x", "y")),
        ("{}", ("x", "y")),
        ("{{0,1},{2,3},{4,5},{6,7}}", ("y:(2)2",)),
        ("{{0,2,4,6},{1,3,5,7}}", ("y:(1)2", "x")),
    ],
)
def test_axes_of_hlo(groups: str, axes: tuple[str, ...]) -> None:
    attributes = f"channel_id=1, replica_groups={groups}, to_apply=%c"
    found = use_in(f"all-reduce(%b), {attributes}")
    group = prod(PRICES.links.size(axis) for axis in axes)
    assert found == ("all_reduce", axes, group, 2 * 16 * (group - 1) / group, 16.0)


def test_groups_of_no_axes() -> None:
    """Said as of our collectives; what they pay is the links of all axes."""
    found = use_in("all-reduce(%b), replica_groups={{0,7},{1,6},{2,5},{3,4}}, to_apply=%c")
    assert found == ("all_reduce", (), 2, 16.0, 16.0)
    assert paid_axes(found.axes, found.group, GRID) == ("x", "y")
    assert paid_axes((), 1, GRID) == ()


def test_axes_of_a_permutation() -> None:
    pairs = "{{0,4},{4,0},{1,5},{5,1}}"
    found = use_in(f"collective-permute(%b), source_target_pairs={pairs}, metadata={{}}")
    assert found == ("permute", ("x",), 2, 16.0, 16.0)


def use_in(instruction: str) -> HloUse:
    """The collective of a module that has nothing else."""
    hlo = f"""
ENTRY %main (b: f32[4]) -> f32[4] {{
  %b = f32[4]{{0}} parameter(0)
  ROOT %a = f32[4]{{0}} {instruction}
}}
"""
    (found,) = uses(parse(hlo), GRID)
    return found
