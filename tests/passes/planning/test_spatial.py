"""Images split in space: auto-shard against an expert who splits every activation."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

import autopar
from autopar.dialects import make_context
from autopar.lowering.importer import import_module
from autopar.lowering.mlir_context import merge_equal_ops
from autopar.passes.cost.cluster import read_cluster
from autopar.passes.cost.prices import CostModel
from autopar.passes.cost.program import price_of
from autopar.passes.manager import run_passes
from autopar.passes.pipelines import IMPORT
from autopar.passes.planning import road
from autopar.passes.planning.planner import make_plan
from autopar.passes.planning.problems import UNIT_S
from autopar.passes.solver.solve import SolveOptions
from autopar.road import declare_mesh

KERNELS = [(3, 3, 3, 32), (3, 3, 32, 32), (3, 3, 32, 3)]
ARGS = (
    [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in KERNELS],
    jax.ShapeDtypeStruct((1, 1024, 1024, 3), jnp.float32),
)


def _step(split: NamedSharding | None) -> Any:
    def loss(kernels: Any, images: Any) -> Any:
        x = images
        for kernel in kernels:
            x = lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = jax.nn.relu(x if split is None else lax.with_sharding_constraint(x, split))
        return jnp.mean((x - images) ** 2)

    def step(kernels: Any, images: Any) -> Any:
        grads = jax.grad(loss)(kernels, images)
        return jax.tree.map(lambda kernel, grad: kernel - 0.1 * grad, kernels, grads)

    return step


def _seconds(plan: Any, cluster: str) -> float:
    module, _ = plan.road.decided("spmd")
    return price_of(module, CostModel.of(read_cluster(cluster), plan.grid)).total


@pytest.mark.parametrize("cluster", ["8xv100", "8xh100"])
def test_as_good_as_a_spatial_expert(cluster: str) -> None:
    mesh = jax.make_mesh((2, 4), ("x", "y"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    split = NamedSharding(mesh, PartitionSpec(None, "x", "y"))
    shardings = [NamedSharding(mesh, PartitionSpec())] * len(KERNELS), split
    expert = autopar.plan(
        _step(split), *ARGS, method="shard", mesh=mesh, in_shardings=shardings, donate_argnums=0
    )
    method = autopar.AutoShardParallel(options={"cluster": cluster})
    auto = autopar.plan(_step(None), *ARGS, method=method, mesh=mesh, donate_argnums=0)
    assert not any("gathered" in told.text for told in auto.remarks)
    assert _seconds(auto, cluster) <= 1.001 * _seconds(expert, cluster)


def _loop(sweep: Any) -> Any:
    return lambda u: lax.fori_loop(0, 10, lambda _, v: sweep(v), u)


def _rolled(u: Any) -> Any:
    return jnp.sin(jnp.roll(u, 1, 0) + jnp.roll(u, 1, 1))


def _jacobi(u: Any) -> Any:
    return 0.25 * (jnp.roll(u, 1, 0) + jnp.roll(u, -1, 0) + jnp.roll(u, 1, 1) + jnp.roll(u, -1, 1))


def _shifted(u: Any) -> Any:
    """Zeros come in from both ends."""
    edge = jnp.zeros((1, u.shape[1]))
    rows = jnp.concatenate([edge, u[:-1]]) + jnp.concatenate([u[1:], edge])
    return rows + jnp.roll(u, 1, 1)


def _padded(u: Any) -> Any:
    """Windows of 8194 rows and columns; two of them have the same rows, fetched once."""
    v = jnp.pad(u, 1)
    return 0.25 * (v[2:, 1:-1] + v[:-2, 1:-1] + v[1:-1, 2:] + v[1:-1, :-2])


def _upwind(u: Any) -> Any:
    """Differences, one row less than the field."""
    return u - jnp.pad(jnp.diff(u, axis=0), ((0, 1), (0, 0))) + jnp.roll(u, 1, 1)


def _life(u: Any) -> Any:
    kernel = jnp.ones((3, 3, 1, 1))
    image = u[None, :, :, None]
    count = lax.conv_general_dilated(
        image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jnp.where(count > 2.5, 1.0, 0.0)[0, :, :, 0]


def _pooled(u: Any) -> Any:
    return lax.reduce_window(u, 0.0, lax.add, (3, 3), (1, 1), "SAME")


STENCILS = {
    "rolled": _rolled,
    "jacobi": _jacobi,
    "shifted": _shifted,
    "padded": _padded,
    "upwind": _upwind,
    "life": _life,
    "pooled": _pooled,
}
GRIDS: dict[str, tuple[tuple[int, ...], list[PartitionSpec]]] = {
    "8": ((8,), [PartitionSpec("x")]),
    "2x4": ((2, 4), [PartitionSpec("x", "y"), PartitionSpec(("x", "y")), PartitionSpec("x")]),
}


@pytest.mark.parametrize("cluster", ["8xv100", "8xh100"])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", STENCILS)
def test_stencils_are_split_as_by_hand(
    name: str, grid: str, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The axes divide none of the slices."""
    monkeypatch.setattr(road, "_SMALL", 0)  # no rivals
    planned, seconds, by_hand = _held_against(_loop(STENCILS[name]), grid, cluster)
    assert seconds <= 1.001 * by_hand
    assert planned == pytest.approx(seconds, rel=0.01)


def _held_against(step: Any, grid: str, cluster: str) -> tuple[float, float, float]:
    """Seconds as planned, of the partitioned plan, and of the best split by hand."""
    sizes, splits = GRIDS[grid]
    mesh = jax.make_mesh(
        sizes, ("x", "y")[: len(sizes)], axis_types=(jax.sharding.AxisType.Auto,) * len(sizes)
    )
    field = jax.ShapeDtypeStruct((8192, 8192), jnp.float32)
    by_hand = [
        autopar.plan(step, field, method="shard", mesh=mesh, in_shardings=NamedSharding(mesh, spec))
        for spec in splits
    ]
    native = jax.jit(step).lower(field).compiler_ir("stablehlo")
    merge_equal_ops(native)
    module = import_module(native)
    declare_mesh(module, by_hand[0].grid)
    run_passes(module, IMPORT, make_context())
    prices = CostModel.of(read_cluster(cluster), by_hand[0].grid)
    planned = make_plan(module, make_context(), prices, SolveOptions(10))
    seconds = planned.partitioned(module, make_context(), prices).tried.price.total
    best = min(_seconds(plan, cluster) for plan in by_hand)
    return planned.choices.solution.cost * UNIT_S, seconds, best


@pytest.mark.parametrize("cluster", ["8xv100", "8xh100"])
def test_what_is_sliced_of_an_argument_is_all_that_is_read(cluster: str) -> None:
    """One sweep over a field that lies whole everywhere sends nothing."""
    planned, seconds, by_hand = _held_against(_jacobi, "8", cluster)
    assert seconds < 0.6 * by_hand
    assert planned == pytest.approx(seconds, rel=0.02)


def test_a_field_is_held_against_its_splits() -> None:
    """The search takes the argument whole, and counts its first sweep as kept; partitioned, it is
    computed again where it is read."""

    def twice(u: Any) -> Any:
        return _jacobi(_jacobi(u))

    _, seconds, by_hand = _held_against(twice, "8", "8xv100")
    assert seconds <= 1.01 * by_hand


def test_a_volume_is_split_in_space_as_by_hand() -> None:
    """Windows that a convolution and the gradient of its weights read alike are fetched once."""
    kernels = [jax.ShapeDtypeStruct((3, 3, 3, a, 64), jnp.float32) for a in (16, 64)]
    volume = jax.ShapeDtypeStruct((2, 64, 64, 64, 16), jnp.float32)

    def loss(kernels: Any, x: Any) -> Any:
        for index, kernel in enumerate(kernels):
            x = jax.nn.relu(x) if index else x
            names = ("NDHWC", "DHWIO", "NDHWC")
            x = lax.conv_general_dilated(x, kernel, (1, 1, 1), "SAME", dimension_numbers=names)
        return jnp.mean(x**2)

    def step(kernels: Any, x: Any) -> Any:
        grads = jax.grad(loss)(kernels, x)
        return jax.tree.map(lambda kernel, grad: kernel - 0.01 * grad, kernels, grads)

    mesh = jax.make_mesh((2, 4), ("x", "y"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    whole, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("x", "y")))
    expert = autopar.plan(
        step,
        kernels,
        volume,
        method="shard",
        mesh=mesh,
        in_shardings=([whole, whole], split),
        donate_argnums=0,
    )
    method = autopar.AutoShardParallel(options={"cluster": "8xh100"})
    auto = autopar.plan(step, kernels, volume, method=method, mesh=mesh, donate_argnums=0)
    assert _seconds(auto, "8xh100") <= 1.001 * _seconds(expert, "8xh100")
