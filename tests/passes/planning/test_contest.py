"""Plans are no dearer than experts' where the search knows least: messages that meet in loops and
between kinds of plans."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from xdsl.dialects.builtin import ModuleOp

from autopar.dialects import make_context
from autopar.dialects.autopar import set_arg_shardings
from autopar.dialects.sharding import Grid, Sharding
from autopar.lowering.importer import import_module
from autopar.passes.cost.cluster import read_cluster
from autopar.passes.cost.prices import CostModel
from autopar.passes.entry import main_function
from autopar.passes.importing.annotate_method import AnnotateMethodPass
from autopar.passes.manager import run_passes
from autopar.passes.partition.specs import AxisTable
from autopar.passes.pipelines import IMPORT
from autopar.passes.planning import road
from autopar.passes.planning.plan_graph import PlanGraph
from autopar.passes.planning.planner import make_plan
from autopar.passes.planning.rivals import propagated_rivals
from autopar.passes.planning.search import Search
from autopar.passes.planning.trial import Trial
from autopar.passes.planning.writing import Unplanned, write_choices
from autopar.passes.sharding.propagation import propagate_shardings
from autopar.passes.solver.solve import SolveOptions
from autopar.road import declare_mesh
from benchmarks.cases import step_of

GRID = Grid("mesh", (("x", 2), ("y", 4)))
PRICES = CostModel.of(read_cluster("8xh100"), GRID)


def _f32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, np.float32)


def _module(loss: Callable[..., Any], params: Any, *batch: Any) -> ModuleOp:
    def step(state: Any, *batch: Any) -> Any:
        params, velocity = state
        grads = jax.grad(loss)(params, *batch)
        velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, grads)
        return jax.tree.map(lambda p, v: p - 0.1 * v, params, velocity), velocity

    return _imported(step, (params, params), *batch)


def _imported(step: Callable[..., Any], state: Any, *batch: Any) -> ModuleOp:
    lowered = jax.jit(step, donate_argnums=0).lower(state, *batch)
    module = import_module(lowered.compiler_ir("stablehlo"))
    declare_mesh(module, GRID)
    run_passes(module, IMPORT, make_context())
    return module


def _price(module: ModuleOp) -> float:
    propagate_shardings(module)
    return Trial(module, make_context(), PRICES).price.total


def _stated(module: ModuleOp, dims: Sequence[Sequence[Sequence[str]]]) -> float:
    """The price of a step whose arguments lie so."""
    shardings: list[Sharding | None] = [Sharding.of("mesh", own) for own in dims]
    set_arg_shardings(main_function(module), shardings)
    return _price(module)


def _words() -> ModuleOp:
    """Words from 512 features."""

    def step(params: Any, x: Any, word: Any) -> Any:
        def loss(params: Any) -> Any:
            logits = jax.nn.log_softmax(x @ params["w"] + params["b"])
            return -jnp.take_along_axis(logits, word[:, None], 1).mean()

        value, grads = jax.value_and_grad(loss)(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), value

    params = {"b": _f32(50000), "w": _f32(512, 50000)}
    return _imported(step, params, _f32(1024, 512), jax.ShapeDtypeStruct((1024,), np.int32))


def test_a_split_over_words_is_found_as_if_it_were_stated() -> None:
    both = ["x", "y"]
    state = [[both], [[], both]]
    stated = _stated(_words(), [*state, [[], []], [[]]])
    planned = make_plan(_words(), make_context(), PRICES, SolveOptions(5))
    assert planned.tried is not None
    assert planned.tried.price.total <= 1.0001 * stated


def _smooth() -> ModuleOp:
    """Smoothed labels of as many words, behind a layer that every device computes whole."""

    def step(params: Any, x: Any, word: Any) -> Any:
        def loss(params: Any) -> Any:
            logits = jax.nn.log_softmax(jnp.tanh(x @ params["inner"]) @ params["words"])
            own = jax.nn.one_hot(word, 32000)
            return -(0.9 * (own * logits).sum(-1) + 0.1 * logits.mean(-1)).mean()

        value, grads = jax.value_and_grad(loss)(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), value

    params = {"inner": _f32(512, 512), "words": _f32(512, 32000)}
    return _imported(step, params, _f32(1024, 512), jax.ShapeDtypeStruct((1024,), np.int32))


def test_arguments_may_lie_elsewhere_than_the_search_finds() -> None:
    stated = _stated(_smooth(), [[[], []], [[], ["x", "y"]], [[], []], [[]]])
    planned = make_plan(_smooth(), make_context(), PRICES, SolveOptions(5))
    assert planned.tried is not None
    assert planned.tried.price.total <= 1.0001 * stated


def _layer(x: Any, p: Any) -> tuple[Any, None]:
    mixed = jax.nn.softmax((x @ p["q"]) @ (x @ p["k"]).swapaxes(-1, -2)) @ (x @ p["v"])
    x = x + mixed @ p["o"]
    return x + jax.nn.gelu(x @ p["up"]) @ p["down"], None


def _shapes(layers: int, width: int) -> dict[str, Any]:
    wide = {"up": _f32(layers, width, 4 * width), "down": _f32(layers, 4 * width, width)}
    return {**{name: _f32(layers, width, width) for name in "qkvo"}, **wide}


@pytest.mark.parametrize("zero", [2, 3])
def test_zero_leaves_activations_where_the_batch_is(zero: Literal[2, 3]) -> None:
    """From state that is split alone, propagation would split layers as well."""

    def module() -> ModuleOp:
        step = step_of("gpt-mini", 1, 256)  # so many examples that messages count little
        return _imported(step.function, *step.args)

    planned, made = module(), module()
    run_passes(made, [AnnotateMethodPass("dp")], make_context())
    graph = PlanGraph(main_function(planned), AxisTable(GRID, ()), PRICES)
    bound = propagated_rivals(graph, Unplanned(planned), (zero, None))[0]
    write_choices(graph, Search(graph, SolveOptions(5)).within(bound).of_node)
    assert _price(planned) < 2 * _price(made)


@pytest.mark.parametrize("size", [(12, 512, 16, 128), (24, 1024, 8, 256)])
def test_scanned_layers_are_no_dearer_than_split_by_hand(size: tuple[int, int, int, int]) -> None:
    """Tensor parallelism over one axis, data parallelism over the other; the loop's all_reduces are
    sent together, which the search does not know."""
    layers, width, rows, length = size

    def module() -> ModuleOp:
        def loss(params: Any, x: Any) -> Any:
            return (lax.scan(_layer, x, params)[0] ** 2).mean()

        return _module(loss, _shapes(layers, width), _f32(rows, length, width))

    planned = make_plan(module(), make_context(), PRICES, SolveOptions(5))
    assert planned.tried is not None
    columns, rows_of, whole = [[], [], ["y"]], [[], ["y"], []], [[], [], []]
    for attention in (True, False):
        own = (columns, rows_of) if attention else (whole, whole)
        state = {"down": rows_of, "k": own[0], "o": own[1], "q": own[0], "up": columns, "v": own[0]}
        layout = [state[name] for name in sorted(state)]
        for batch, model in (("x", "y"), ("y", "x")):
            named = [[[model if a == "y" else a for a in axes] for axes in dims] for dims in layout]
            stated = _stated(module(), [*named, *named, [[batch], [], []]])
            assert planned.tried.price.total <= 1.0001 * stated


def test_large_loops_are_held_against_data_parallelism(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the size of their bodies, up to some."""
    monkeypatch.setattr(road, "_SMALL", 0)
    monkeypatch.setattr(road, "_TINY", 0)

    def module() -> ModuleOp:
        def group(x: Any, params: Any) -> tuple[Any, None]:
            for own in params:
                x, _ = _layer(x, own)
            return x, None

        def loss(params: Any, x: Any) -> Any:
            return (lax.scan(group, x, params)[0] ** 2).mean()

        return _module(loss, [_shapes(4, 512) for _ in range(6)], _f32(16, 128, 512))

    made = module()
    run_passes(made, [AnnotateMethodPass("dp")], make_context())
    planned = make_plan(module(), make_context(), PRICES, SolveOptions(5))
    assert planned.tried is not None
    assert planned.tried.price.total <= 1.0001 * _price(made)
    monkeypatch.setattr(road, "_LOOPED", 0)
    alone = make_plan(module(), make_context(), PRICES, SolveOptions(5))
    assert alone.tried is None
