"""Gradients of recurrent steps: what each trip of a loop adds to them is summed over devices once,
after the loop, and priced so."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import autopar
from autopar.dialects.sharding import Grid
from autopar.passes.cost.cluster import read_cluster
from autopar.passes.cost.prices import CostModel
from autopar.passes.cost.program import price_of
from autopar.passes.planning import planner

TRIPS, ROWS, WIDTH = 64, 512, 512
AUTO = autopar.AutoShardParallel(options={"cluster": "8xh100"})
Cell = Callable[[Any, Any, Any], Any]


def _normed(z: Any) -> Any:
    z = z - z.mean(-1, keepdims=True)
    return z * lax.rsqrt((z**2).mean(-1, keepdims=True) + 1e-5)


def _bias(p: Any, h: Any, x: Any) -> Any:
    return jnp.tanh(x + h @ p["u"] + p["b"])


def _norm(p: Any, h: Any, x: Any) -> Any:
    return jnp.tanh(_normed(x + h @ p["u"]) * p["s"] + p["b"])


def _decay(p: Any, h: Any, x: Any) -> Any:
    return jax.nn.sigmoid(p["s"]) * h + jnp.tanh(x + h @ p["u"] + p["b"])


def _gated(p: Any, h: Any, x: Any) -> Any:
    gate = jax.nn.sigmoid(x + h @ p["w"] + p["s"])
    return gate * h + (1 - gate) * jnp.tanh(x + h @ p["u"] + p["b"])


CELLS: dict[str, Cell] = {"bias": _bias, "norm": _norm, "decay": _decay, "gated": _gated}
PARAMETERS = {"w": (WIDTH, WIDTH), "u": (WIDTH, WIDTH), "b": (WIDTH,), "s": (WIDTH,)}
NEEDS = {"bias": "ub", "norm": "usb", "decay": "usb", "gated": "wusb"}


def _step(cell: Cell) -> Callable[..., Any]:
    def step(params: Any, x: Any) -> Any:
        def loss(params: Any) -> Any:
            def body(h: Any, now: Any) -> Any:
                h = cell(params, h, now)
                return h, h

            start = jnp.zeros((x.shape[0], x.shape[2]))
            return (lax.scan(body, start, x.swapaxes(0, 1))[1] ** 2).mean()

        return jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params))

    return step


def _lowered(name: str, mesh: tuple[int, ...], method: Any) -> tuple[Any, float]:
    """A step by a method, and the seconds of its partitioned program."""
    shape = jax.ShapeDtypeStruct
    params = {key: shape(PARAMETERS[key], np.float32) for key in NEEDS[name]}
    x = shape((ROWS, TRIPS, WIDTH), np.float32)
    lowered = autopar.parallelize(
        _step(CELLS[name]), method=method, mesh=mesh, donate_argnums=0, batch_argnums=1
    ).lower(params, x)
    grid = Grid("mesh", tuple(zip(("data", "model"), mesh, strict=False)))
    prices = CostModel.of(read_cluster("8xh100"), grid)
    return lowered, price_of(lowered.road.at("spmd"), prices).total


def _planned(monkeypatch: pytest.MonkeyPatch, name: str, mesh: tuple[int, ...]) -> Any:
    """What `_lowered` gives, and the seconds that the search found, without rivals: the price of
    one that is taken is that of its partitioned program."""
    found: list[float] = []
    make_plan = planner.make_plan

    def noting(*args: Any, **kwargs: Any) -> Any:
        plan = make_plan(*args, **kwargs)
        found.append(plan.choices.solution.cost * planner.UNIT_S)
        return plan

    monkeypatch.setattr(planner, "_SMALL", 0)
    monkeypatch.setattr(planner, "_LARGE", 0)
    monkeypatch.setattr("autopar.passes.planning.auto_shard.make_plan", noting)
    return *_lowered(name, mesh, AUTO), found[0]


@pytest.mark.parametrize("mesh", [(8,), (2, 4)])
@pytest.mark.parametrize("name", CELLS)
def test_summed_after_the_loop(
    name: str, mesh: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    lowered, seconds, planned = _planned(monkeypatch, name, mesh)
    assert planned == pytest.approx(seconds, rel=0.01)
    assert all(use.times == 1 for use in lowered.plan.collectives)
    assert seconds <= 1.001 * _lowered(name, mesh, "dp")[1]
