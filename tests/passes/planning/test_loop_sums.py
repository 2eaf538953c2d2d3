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
from autopar.passes.planning import planner, road
from autopar.passes.planning.loop_sums import LoopSums
from autopar.passes.planning.planner import make_plan
from autopar.passes.planning.problems import UNIT_S

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


def _twice(p: Any, h: Any, x: Any) -> Any:
    """What is added of one weight are two sums, one after the other."""
    return jnp.tanh(x + jnp.tanh(h @ p["u"] + p["b"]) @ p["u"] + p["b"])


def _loss(cell: Cell) -> Callable[..., Any]:
    def loss(params: Any, x: Any) -> Any:
        def body(h: Any, now: Any) -> Any:
            h = cell(params, h, now)
            return h, h

        start = jnp.zeros((x.shape[0], x.shape[2]))
        return (lax.scan(body, start, x.swapaxes(0, 1))[1] ** 2).mean()

    return loss


def _midpoint(params: Any, x: Any) -> Any:
    """What is added of one weight are two sums, added to each other before; that of a row goes to
    the gradients of two."""

    def slope(h: Any, time: Any) -> Any:
        return jnp.tanh(h @ params["u"] + params["b"] + time * params["s"])

    @jax.checkpoint
    def move(h: Any, time: Any) -> Any:
        return h + 0.1 * slope(h + 0.05 * slope(h, time), time + 0.05), None

    start = x.reshape(-1, WIDTH)
    return ((lax.scan(move, start, jnp.arange(8.0))[0] - start) ** 2).mean()


def _layers(params: Any, x: Any) -> Any:
    """The gradients of layers are rows that a scan stores."""

    def layer(h: Any, now: Any) -> Any:
        return h + jnp.tanh(h @ now["layers"] + now["rows"]), None

    return (lax.scan(layer, x.reshape(-1, WIDTH), params)[0] ** 2).mean()


def _by_microbatch(loss: Callable[..., Any]) -> Callable[..., Any]:
    """Gradients that an outer loop adds up as well."""

    def grads(params: Any, x: Any) -> Any:
        def add(sums: Any, x: Any) -> Any:
            return jax.tree.map(jnp.add, sums, jax.grad(loss)(params, x)), None

        parts = x.reshape(ROWS // 2, 2, *x.shape[1:]).swapaxes(0, 1)
        return lax.scan(add, jax.tree.map(jnp.zeros_like, params), parts)[0]

    return grads


GRADS: dict[str, tuple[str, Callable[..., Any]]] = {
    "bias": ("ub", jax.grad(_loss(_bias))),
    "norm": ("usb", jax.grad(_loss(_norm))),
    "decay": ("usb", jax.grad(_loss(_decay))),
    "gated": ("wusb", jax.grad(_loss(_gated))),
    "twice": ("ub", jax.grad(_loss(_twice))),
    "midpoint": ("usb", jax.grad(_midpoint)),
    "microbatches": ("ub", _by_microbatch(_loss(_bias))),
    "layers": ("LB", _by_microbatch(_layers)),
}
"""The parameters of each step, and their gradients."""
PARAMETERS = {
    "w": ("w", (WIDTH, WIDTH)),
    "u": ("u", (WIDTH, WIDTH)),
    "b": ("b", (WIDTH,)),
    "s": ("s", (WIDTH,)),
    "L": ("layers", (8, WIDTH, WIDTH)),
    "B": ("rows", (8, WIDTH)),
}


def _step(grads: Callable[..., Any]) -> Callable[..., Any]:
    def step(params: Any, x: Any) -> Any:
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads(params, x))

    return step


def _lowered(name: str, mesh: tuple[int, ...], method: Any) -> tuple[Any, float]:
    """A step by a method, and the seconds of its partitioned program."""
    shape = jax.ShapeDtypeStruct
    keys, grads = GRADS[name]
    params = {PARAMETERS[key][0]: shape(PARAMETERS[key][1], np.float32) for key in keys}
    x = shape((ROWS, TRIPS, WIDTH), np.float32)
    lowered = autopar.parallelize(
        _step(grads), method=method, mesh=mesh, donate_argnums=0, batch_argnums=1
    ).lower(params, x)
    grid = Grid("mesh", tuple(zip(("data", "model"), mesh, strict=False)))
    prices = CostModel.of(read_cluster("8xh100"), grid)
    return lowered, price_of(lowered.road.at("spmd"), prices).total


def _planned(monkeypatch: pytest.MonkeyPatch, name: str, mesh: tuple[int, ...]) -> Any:
    """What `_lowered` gives, and the seconds that the search found, without rivals: the price of
    one that is taken is that of its partitioned program."""
    found: list[float] = []

    def noting(*args: Any, **kwargs: Any) -> Any:
        plan = make_plan(*args, **kwargs)
        found.append(plan.choices.solution.cost * UNIT_S)
        return plan

    monkeypatch.setattr(road, "_SMALL", 0)
    monkeypatch.setattr("autopar.passes.planning.auto_shard.make_plan", noting)
    return *_lowered(name, mesh, AUTO), found[0]


@pytest.mark.parametrize("mesh", [(8,), (2, 4)])
@pytest.mark.parametrize("name", GRADS)
def test_summed_after_the_loop(
    name: str, mesh: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    lowered, seconds, planned = _planned(monkeypatch, name, mesh)
    assert planned == pytest.approx(seconds, rel=0.01)
    assert all(use.times == 1 for use in lowered.plan.collectives)
    assert seconds <= 1.001 * _lowered(name, mesh, "dp")[1]


@pytest.mark.parametrize("mesh", [(8,), (2, 4)])
@pytest.mark.parametrize("name", GRADS)
def test_data_parallelism_is_a_rival_whatever_it_is_thought_to_cost(
    name: str, mesh: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search that does not know what loops add up leaves the batch whole."""
    monkeypatch.setattr(LoopSums, "take", lambda *_: False)
    monkeypatch.setattr(LoopSums, "_group", lambda *_: None)
    assert _lowered(name, mesh, AUTO)[1] <= 1.001 * _lowered(name, mesh, "dp")[1]


@pytest.mark.parametrize("name", ["bias", "gated", "microbatches"])
def test_summed_after_the_loop_where_memory_is_freed_early(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where what is to lie scattered is else scattered at once."""

    def early(late: road.Road, _limit: int) -> road.Found:
        return late.early.cheapest()

    monkeypatch.setattr(road, "_SMALL", 0)
    monkeypatch.setattr(planner, "fitting", early)
    method = autopar.AutoShardParallel(options={"cluster": "8xh100", "zero": 3})
    lowered, _ = _lowered(name, (2, 4), method)
    assert {"reduce_scatter"} <= {use.kind for use in lowered.plan.collectives}
    assert all(use.times == 1 for use in lowered.plan.collectives)
