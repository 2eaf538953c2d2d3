"""What auto-shard counts is the price of the partitioned program: loops, and moves on the way."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from xdsl.dialects.builtin import ModuleOp

from autopar.dialects import make_context
from autopar.dialects.sharding import Grid
from autopar.dialects.tensors import shape_of
from autopar.lowering.importer import import_module
from autopar.lowering.mlir_context import merge_equal_ops
from autopar.passes.cost import program
from autopar.passes.cost.cluster import read_cluster
from autopar.passes.cost.prices import CostModel
from autopar.passes.entry import main_function
from autopar.passes.manager import run_passes
from autopar.passes.partition.specs import AxisTable
from autopar.passes.pipelines import IMPORT
from autopar.passes.planning import reshard_prices, road
from autopar.passes.planning.demands import Demands
from autopar.passes.planning.joint_sums import joint_sums
from autopar.passes.planning.plan_graph import PlanGraph
from autopar.passes.planning.planner import make_plan
from autopar.passes.planning.rivals import propagated_rivals
from autopar.passes.planning.search import Search
from autopar.passes.planning.trial import Trial
from autopar.passes.planning.writing import Unplanned, write_choices
from autopar.passes.sharding.propagation import propagate_shardings
from autopar.passes.solver.solve import SolveOptions
from autopar.road import declare_mesh

GRID = Grid("mesh", (("x", 2), ("y", 4)))
WIDTH = 512


def _f32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, np.float32)


class Step(NamedTuple):
    function: Callable[..., Any]
    args: tuple[Any, ...]
    donated: int | tuple[int, ...] = 0


def _trained(loss: Callable[..., Any], params: Any, *batch: Any) -> Step:
    def step(params: Any, *batch: Any) -> Any:
        grads = jax.grad(loss)(params, *batch)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)

    return Step(step, (params, *batch))


def _rnn() -> Step:
    def loss(params: Any, x: Any) -> Any:
        def cell(h: Any, row: Any) -> Any:
            h = jnp.tanh(row @ params["w"] + h @ params["u"])
            return h, h

        return lax.scan(cell, jnp.zeros((x.shape[1], WIDTH)), x)[1].mean()

    params = {"w": _f32(WIDTH, WIDTH), "u": _f32(WIDTH, WIDTH)}
    return _trained(loss, params, _f32(32, 64, WIDTH))


def _lstm() -> Step:
    def loss(params: Any, x: Any) -> Any:
        def cell(carry: Any, row: Any) -> Any:
            h, s = carry
            gates = row @ params["w"] + h @ params["u"] + params["b"]
            i, f, g, o = jnp.split(gates, 4, -1)
            s = jax.nn.sigmoid(f) * s + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(s)
            return (h, s), h

        start = (jnp.zeros((x.shape[1], WIDTH)),) * 2
        return (lax.scan(cell, start, x)[1] @ params["o"]).mean()

    params = {
        "w": _f32(WIDTH, 4 * WIDTH),
        "u": _f32(WIDTH, 4 * WIDTH),
        "b": _f32(4 * WIDTH),
        "o": _f32(WIDTH, 4 * WIDTH),
    }
    return _trained(loss, params, _f32(32, 64, WIDTH))


def _decode() -> Step:
    batch, length, heads = 32, 128, 8

    def generate(params: Any, cache: Any, tokens: Any) -> Any:
        def body(carry: Any, i: Any) -> Any:
            (k, v), tokens = carry
            x = params["e"][tokens]
            q, now = ((x @ params[w]).reshape(batch, heads, -1) for w in "qk")
            k = lax.dynamic_update_slice(k, now[:, None], (0, i, 0, 0))
            v = lax.dynamic_update_slice(v, now[:, None] * 2, (0, i, 0, 0))
            scores = jax.nn.softmax(jnp.einsum("bhd,bshd->bhs", q, k))
            x = x + jnp.einsum("bhs,bshd->bhd", scores, v).reshape(batch, -1) @ params["o"]
            tokens = jnp.argmax(x @ params["e"].T, -1).astype(jnp.int32)
            return ((k, v), tokens), tokens

        return lax.scan(body, (cache, tokens), jnp.arange(16))

    params = {"e": _f32(4096, WIDTH), **{w: _f32(WIDTH, WIDTH) for w in "qko"}}
    cache = (_f32(batch, length, heads, WIDTH // heads),) * 2
    return Step(generate, (params, cache, jax.ShapeDtypeStruct((batch,), np.int32)), 1)


def _paged() -> Step:
    """Rows of a large table that all examples share are gathered by each of them."""
    batch, pages, heads = 64, 256, 8

    def attend(params: Any, table: Any, rows: Any, x: Any) -> Any:
        q = (x @ params["q"]).reshape(batch, heads, -1)
        scores = jax.nn.softmax(jnp.einsum("bhd,bshd->bhs", q, table[rows]))
        mixed = jnp.einsum("bhs,bshd->bhd", scores, 2 * table[rows])
        return x + mixed.reshape(batch, -1) @ params["o"]

    params = {"q": _f32(4096, 4096), "o": _f32(4096, 4096)}
    rows = jax.ShapeDtypeStruct((batch, pages), np.int32)
    return Step(attend, (params, _f32(65536, heads, 4096 // heads), rows, _f32(batch, 4096)), ())


def _layers() -> Step:
    def loss(params: Any, x: Any) -> Any:
        def layer(h: Any, own: Any) -> Any:
            return h + jax.nn.relu(h @ own["up"]) @ own["down"], None

        return jnp.mean(lax.scan(layer, x, params)[0] ** 2)

    params = {"up": _f32(6, WIDTH, 4 * WIDTH), "down": _f32(6, 4 * WIDTH, WIDTH)}
    return _trained(loss, params, _f32(2048, WIDTH))


def _modulated() -> Step:
    """Rows scaled and shifted by parts of a product that each layer makes of few conditions."""

    def loss(params: Any, x: Any, conditions: Any) -> Any:
        def layer(h: Any, own: Any) -> Any:
            parts = (conditions @ own["by"])[:, None, :]
            shift, scale, gate = jnp.split(parts, 3, axis=-1)
            up = jax.nn.gelu((h * (1 + scale) + shift) @ own["up"])
            return h + gate * (up @ own["down"]), None

        return jnp.mean(lax.scan(jax.checkpoint(layer), x, params)[0] ** 2)

    params = {
        "by": _f32(6, WIDTH, 3 * WIDTH),
        "up": _f32(6, WIDTH, 4 * WIDTH),
        "down": _f32(6, 4 * WIDTH, WIDTH),
    }
    return _trained(loss, params, _f32(64, 256, WIDTH), _f32(64, WIDTH))


def _experts() -> Step:
    """Each row times the matrix of its own expert, which is gathered for it."""

    def loss(params: Any, x: Any, expert: Any) -> Any:
        up = jax.nn.relu(jnp.einsum("nd,ndf->nf", x, params["up"][expert]))
        return jnp.mean(jnp.einsum("nf,nfd->nd", up, params["down"][expert]) ** 2)

    params = {"up": _f32(8, 64, 256), "down": _f32(8, 256, 64)}
    return _trained(loss, params, _f32(2048, 64), jax.ShapeDtypeStruct((2048,), np.int32))


def _preconditioned() -> Step:
    """A gradient in the eigenvectors of what was added up of it, which LAPACK finds; whether it did
    is a scalar of the same op."""

    def step(state: Any, x: Any) -> Any:
        weights, factor = state
        value, grad = jax.value_and_grad(lambda w: jnp.mean(jnp.tanh(x @ w) ** 2))(weights)
        factor = factor + grad @ grad.T
        values, vectors = jnp.linalg.eigh(factor)
        grad = (vectors * lax.rsqrt(values)) @ vectors.T @ grad
        return (weights - 0.1 * grad, factor), value

    return Step(step, ((_f32(WIDTH, 4 * WIDTH), _f32(WIDTH, WIDTH)), _f32(8192, WIDTH)))


def _tied() -> Step:
    """A table that is read twice and multiplied with: its gradients are added, and reduced once."""

    def loss(params: Any, one: Any, two: Any) -> Any:
        h = jnp.tanh((params["table"][one] + params["table"][two]) @ params["w"])
        return jnp.mean(jax.nn.logsumexp(h @ params["table"].T, -1))

    params = {"table": _f32(8192, WIDTH), "w": _f32(WIDTH, WIDTH)}
    rows = jax.ShapeDtypeStruct((4096,), np.int32)
    return _trained(loss, params, rows, rows)


def _projections() -> Step:
    """Three products of one input, whose gradient is a sum of three."""

    def loss(params: Any, x: Any) -> Any:
        for own in params:
            h = jnp.tanh(x)
            q, k, v = (h @ own[w] for w in "qkv")
            x = x + (jnp.tanh(q) * jax.nn.sigmoid(k) * v) @ own["o"]
        return jnp.mean(x**2)

    wide = {w: _f32(WIDTH, 16 * WIDTH) for w in "qkv"}
    return _trained(loss, [{**wide, "o": _f32(16 * WIDTH, WIDTH)}] * 3, _f32(4096, WIDTH))


def _clipped_one_by_one() -> Step:
    """Each update is bound by its own norm: scalars that are not added up."""

    def step(params: Any, x: Any) -> Any:
        def loss(params: Any) -> Any:
            h = x
            for weight in params:
                h = jnp.tanh(h @ weight)
            return jnp.mean(h**2)

        def updated(weight: Any, grad: Any) -> Any:
            norm = jnp.sqrt(jnp.mean(grad**2))
            return weight - 0.1 * grad / jnp.maximum(1.0, norm)

        return jax.tree.map(updated, params, jax.grad(loss)(params))

    return Step(step, ([_f32(WIDTH, WIDTH)] * 8, _f32(8192, WIDTH)))


def _positions() -> Step:
    """The gradient of a table's slice is scattered into it once it is summed; a loss is made of
    several means."""

    def loss(params: Any, x: Any) -> Any:
        h = x + params["table"][jnp.arange(64)]
        balance = 0.0
        for weight in params["w"]:
            h = jnp.tanh(h @ weight)
            balance += 0.01 * jnp.mean(jnp.abs(h))
        return jnp.mean(h**2) + balance

    def step(params: Any, x: Any) -> Any:
        value, grads = jax.value_and_grad(loss)(params, x)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), value

    params = {"table": _f32(128, WIDTH), "w": [_f32(WIDTH, WIDTH)] * 3}
    return Step(step, (params, _f32(64, 64, WIDTH)))


STEPS = {
    "rnn": _rnn,
    "lstm": _lstm,
    "decode": _decode,
    "layers": _layers,
    "modulated": _modulated,
    "experts": _experts,
    "preconditioned": _preconditioned,
}


@pytest.fixture(autouse=True)
def _no_rivals(monkeypatch: pytest.MonkeyPatch) -> None:
    """The price of a rival that is taken is that of its partitioned program."""
    monkeypatch.setattr(road, "_SMALL", 0)


def _imported(step: Step) -> ModuleOp:
    jitted = jax.jit(step.function, donate_argnums=step.donated)
    native = jitted.lower(*step.args).compiler_ir("stablehlo")
    merge_equal_ops(native)
    module = import_module(native)
    declare_mesh(module, GRID)
    run_passes(module, IMPORT, make_context())
    return module


def _prices(step: Step, cluster: str, demands: Demands | None = None) -> tuple[float, float]:
    """Seconds of a step as planned, and of the partitioned program."""
    module = _imported(step)
    prices = CostModel.of(read_cluster(cluster), GRID)
    plan = make_plan(module, make_context(), prices, SolveOptions(10), demands=demands)
    partitioned = Trial(module.clone(), make_context(), prices).price.total
    return plan.choices.solution.cost * 1e-12, partitioned


MERGED_ON_THE_WAY = {"layers", "modulated", "preconditioned"}
"""Steps in which all_reduces become one that wait for nothing, as no choice can foresee: in the
body of a loop, and a flag with a sum that happens to stand beside it."""


@pytest.mark.parametrize("cluster", ["8xv100", "8xh100"])
@pytest.mark.parametrize("name", sorted(STEPS.keys() - MERGED_ON_THE_WAY))
def test_planned_is_partitioned(name: str, cluster: str) -> None:
    planned, partitioned = _prices(STEPS[name](), cluster)
    assert planned == pytest.approx(partitioned, rel=0.03)


@pytest.mark.parametrize("cluster", ["8xv100", "8xh100"])
@pytest.mark.parametrize("name", sorted(MERGED_ON_THE_WAY))
def test_planned_is_partitioned_but_for_messages(
    name: str, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned, partitioned = _prices(STEPS[name](), cluster)
    assert partitioned < 1.01 * planned
    for module in (program, reshard_prices):
        monkeypatch.setattr(module, "MESSAGE_BYTES", 1)  # nothing has room beside another
    planned, partitioned = _prices(STEPS[name](), cluster)
    assert planned == pytest.approx(partitioned, rel=0.03)


def test_norms_are_reduced_as_one() -> None:
    """Where links are slower the search prefers one all_reduce of all gradients, each of which the
    partitioner scatters, as no device needs more."""
    split = Demands(allow_replicated_parameters=False)
    planned, partitioned = _prices(_clipped_one_by_one(), "8xh100", split)
    assert planned == pytest.approx(partitioned, rel=0.03)


@pytest.mark.parametrize("flatten_axes", [True, False])
def test_rows_are_read_where_they_are_needed(*, flatten_axes: bool) -> None:
    """A device that gathers for its part of the batch does not read the others' rows."""
    planned, partitioned = _prices(_paged(), "8xv100", Demands(flatten_axes=flatten_axes))
    assert planned == pytest.approx(partitioned, rel=0.03)


@pytest.mark.parametrize("make", [_tied, _positions])
@pytest.mark.parametrize("cluster", ["8xv100", "8xh100"])
def test_what_is_added_is_reduced_once(cluster: str, make: Callable[[], Step]) -> None:
    """Under data parallelism, whatever the search would choose."""
    module, prices = _imported(make()), CostModel.of(read_cluster(cluster), GRID)
    graph = PlanGraph(main_function(module), AxisTable(GRID, ()), prices)
    bound = propagated_rivals(graph, Unplanned(module), (0, None))[0]
    choices = Search(graph, SolveOptions(10)).within(bound)
    write_choices(graph, choices.of_node)
    propagate_shardings(module)
    partitioned = Trial(module, make_context(), prices).price.total
    assert choices.solution.cost * 1e-12 == pytest.approx(partitioned, rel=0.03)


@pytest.mark.parametrize(
    ("make", "kinds"),
    [(_tied, ["dot_general", *["scatter"] * 2]), (_projections, ["dot_general"] * 3)],
)
def test_sums_of_partial_sums(make: Callable[[], Step], kinds: list[str]) -> None:
    body = main_function(_imported(make())).body.block
    found = [[op.name.removeprefix("stablehlo.") for op in s.makers] for s in joint_sums(body)]
    assert kinds in map(sorted, found)


def test_what_is_sent_is_written_first(tmp_path: Path) -> None:
    """Matrices of experts that lie otherwise for their gather than for their product: where memory
    is slow, a transpose between them is to be computed behind the move, not in front of it."""
    cluster = tmp_path / "slow-memory.toml"
    cluster.write_text(
        "version = 1\n[device]\nflops.f32 = 1e9\nmemory_bytes = 1e9\nmemory_bandwidth = 1e9\n"
        "[[link]]\nsize = 8\nalpha = 1e-8\nbeta = 1e-11\n"
    )
    planned, partitioned = _prices(_experts(), str(cluster))
    assert planned == pytest.approx(partitioned, rel=0.01)


@pytest.mark.parametrize("cluster", ["8xv100", "8xh100"])
def test_no_restriction_makes_a_loop_cheaper(cluster: str) -> None:
    _, free = _prices(_decode(), cluster)
    restricted = Demands(allow_replicated_parameters=False)
    assert _prices(_decode(), cluster, restricted)[1] >= 0.999 * free


def _pairs(rows: Any) -> Any:
    return jnp.exp(-((rows[:, None] - rows[None]) ** 2).sum(-1))


def _pair_loss() -> Step:
    """All pairs of a batch, of which nothing is kept but sums over one of the two."""

    def loss(params: Any, x: Any) -> Any:
        rows = x @ params["w"]
        return jnp.log(jnp.exp(-((rows[:, None] - rows[None]) ** 2).sum(-1)).sum(-1)).mean()

    return _trained(loss, {"w": _f32(16, 16)}, _f32(512, 16))


@pytest.mark.parametrize("rates", ["", "elementwise = 1e9\ntranscendental = 1e8\n"])
def test_what_elements_take_is_worth_messages(tmp_path: Path, rates: str) -> None:
    """Where devices are slow to compute elements, and messages take their time: all pairs are split
    for an all_gather and sums of the gradients, though nothing of them is in memory."""
    cluster = tmp_path / "mine.toml"
    cluster.write_text(
        "version = 1\n[device]\nflops.f32 = 1e12\nmemory_bytes = 1e9\nmemory_bandwidth = 1e12\n"
        f"{rates}[[link]]\nsize = 8\nalpha = 1e-4\nbeta = 1e-10\n"
    )
    planned, partitioned = _prices(_pair_loss(), str(cluster))
    assert planned == pytest.approx(partitioned, rel=0.15)
    assert (partitioned > 2e-4) == bool(rates)  # whole, it takes but what it reads and writes
    if rates:
        squares = 3 * 512 * 512 * 16 / 1e9  # a difference, its square, a sum; gradients twice that
        assert partitioned < 3 * squares / 4


@pytest.mark.parametrize("fn", [_pairs, lambda rows: jnp.abs(rows[:, None] - rows[None]).sum(-1)])
@pytest.mark.parametrize("small", [road._SMALL, 0], ids=["held against rivals", "as found"])
def test_what_is_computed_inside_others_is_split(
    fn: Any, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rather than sliced behind that: it takes the same time by the prices, as XLA may compute the
    slice alone, but does not always."""
    monkeypatch.setattr(road, "_SMALL", small)
    module = import_module(jax.jit(fn).lower(_f32(1024, 16)).compiler_ir("stablehlo"))
    declare_mesh(module, GRID)
    run_passes(module, IMPORT, make_context())
    prices = CostModel.of(read_cluster("8xv100"), GRID)
    planned = make_plan(module, make_context(), prices, SolveOptions(5))
    partitioned = planned.partitioned(module, make_context(), prices).tried
    assert partitioned is not None
    for op in main_function(partitioned.module).body.block.ops:
        for result in op.results:
            assert prod(shape_of(result.type)) <= 1024 * 1024 * 16 // 8
