"""auto-shard keeps the memory of a device within its limit."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp

from autopar.dialects import make_context
from autopar.dialects.autopar import AGAIN, COMBINE
from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.shard import grid_of
from autopar.dialects.sharding import Grid
from autopar.lowering.importer import import_module
from autopar.passes.cost.cluster import read_cluster
from autopar.passes.cost.liveness import Memory
from autopar.passes.cost.prices import CostModel
from autopar.passes.entry import main_function
from autopar.passes.manager import run_passes
from autopar.passes.partition.specs import AxisTable
from autopar.passes.pipelines import IMPORT
from autopar.passes.planning import fitting, road, search
from autopar.passes.planning.again import made_again
from autopar.passes.planning.demands import Demands
from autopar.passes.planning.footprint import Footprint
from autopar.passes.planning.plan_graph import PlanGraph
from autopar.passes.planning.planner import make_plan
from autopar.passes.planning.problems import UNIT_S
from autopar.passes.planning.search import Choices, Search
from autopar.passes.planning.trial import Trial
from autopar.passes.solver.solve import SolveOptions
from autopar.road import declare_mesh

GRID = Grid("mesh", (("x", 2), ("y", 4)))
PRICES = CostModel.of(read_cluster("8xv100"), GRID)


def _step(state: Any, batch: Any, *, remat: bool = False) -> Any:
    params, moments = state

    def loss(params: Any) -> Any:
        h = batch
        for weight in params:
            h = jax.nn.relu(h @ weight)
        return jnp.mean((h - batch) ** 2)

    value, grads = jax.value_and_grad(jax.checkpoint(loss) if remat else loss)(params)
    moments = jax.tree.map(lambda m, g: 0.9 * m + g, moments, grads)
    return (jax.tree.map(lambda p, m: p - 0.1 * m, params, moments), moments), value


def _imported(lowered: Any) -> ModuleOp:
    module = import_module(lowered.compiler_ir("stablehlo"))
    declare_mesh(module, GRID)
    run_passes(module, IMPORT, make_context())
    return module


def _module(
    layers: int = 6, width: int = 512, rows: int = 4096, *, remat: bool = False
) -> ModuleOp:
    params = [jax.ShapeDtypeStruct((width, width), np.float32) for _ in range(layers)]
    batch = jax.ShapeDtypeStruct((rows, width), np.float32)
    step = partial(_step, remat=remat)
    lowered = jax.jit(step, donate_argnums=0).lower((params, params), batch)
    return _imported(lowered)


def _planned(limit: int | None, layers: int = 6) -> tuple[float, int]:
    """Seconds of a step and bytes of a device, of the partitioned program."""
    module = _module(layers)
    make_plan(module, make_context(), PRICES, SolveOptions(20), limit)
    trial = Trial(module.clone(), make_context(), PRICES)
    return trial.price.total, trial.memory.peak


def test_the_limit_holds_and_costs_time() -> None:
    free, most = _planned(None)
    seconds = free
    for share in (0.95, 0.85):
        limit = int(share * most)
        slower, used = _planned(limit)
        assert used <= limit
        assert slower >= seconds * (1 - 1e-3)
        seconds = slower
    assert seconds > free


@pytest.mark.parametrize("far", [0.25, 2.0])
def test_where_the_cheapest_plan_is_far_above_the_limit_memory_is_counted_as_freed_early_alone(
    monkeypatch: pytest.MonkeyPatch, far: float
) -> None:
    _, most = _planned(None, layers=3)
    limit = int(0.9 * most)
    late: list[Footprint] = []

    def counting(graph: PlanGraph) -> Footprint:
        late.append(Footprint(graph))
        return late[-1]

    monkeypatch.setattr(search, "Footprint", counting)
    monkeypatch.setattr(road, "_SMALL", 0)
    monkeypatch.setattr(fitting, "_FAR_LATE", far)
    _, used = _planned(limit, layers=3)
    assert used <= limit
    assert bool(late) == (far > 1)


def test_what_does_not_fit_is_said_with_the_heaviest_tensors() -> None:
    module = _module()
    with pytest.raises(DiagnosticError) as info:
        make_plan(module, make_context(), PRICES, SolveOptions(5), 2**20)
    assert "no plan found fits into 1 MiB a device; of those tried the one that needs least" in str(
        info.value
    )
    assert "smaller batches, microbatches or rematerialisation (jax.checkpoint)" in str(info.value)
    notes = [note.message for note in info.value.diagnostic.notes]
    assert len(notes) == 5 and len(set(notes)) == len(notes)
    kinds = [note.partition(" take")[0] for note in notes]
    assert len(set(kinds)) == len(kinds)
    assert any(kind.endswith(" x argument state[*][*] : tensor<512x512xf32>") for kind in kinds)
    assert any("4096x512xf32" in kind for kind in kinds)


def test_who_rematerialises_is_not_told_to() -> None:
    with pytest.raises(DiagnosticError) as info:
        make_plan(_module(2, remat=True), make_context(), PRICES, SolveOptions(5), 2**18)
    assert "smaller batches or microbatches (the step rematerialises), or raise" in str(info.value)


def _tried(monkeypatch: pytest.MonkeyPatch, limit: int, peaks: list[int]) -> None:
    """Plans for a limit, where what is tried turns out to need these bytes in turn."""
    tried: list[int] = []

    def memory(_: Trial) -> Memory:
        tried.append(peaks[min(len(tried), len(peaks) - 1)])
        return Memory(tried[-1], 0, 0)

    monkeypatch.setattr(Trial, "memory", property(memory))
    make_plan(_module(layers=2), make_context(), PRICES, SolveOptions(5), limit)


def test_the_least_that_any_tried_plan_needs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DiagnosticError, match="the one that needs least takes 5 MiB"):
        _tried(monkeypatch, 2**22, [7 * 2**20, 5 * 2**20, 6 * 2**20])


def test_the_cheapest_plan_of_all_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its footprint is above the limit, but that is an estimate."""
    free: list[bool] = []
    run, within = Search.run, Search.within

    def limited(search: Search, limit: int | None) -> Choices:
        free.append(limit is None)
        return run(search, limit)

    def bound(search: Search, kept: Mapping[int, Any]) -> Choices:
        free.append(not kept)
        return within(search, kept)

    monkeypatch.setattr(Search, "run", limited)
    monkeypatch.setattr(Search, "within", bound)
    cheapest = make_plan(_module(layers=2), make_context(), PRICES, SolveOptions(5)).choices
    limit = int(0.7 * cheapest.bytes)
    fits_when_free = property(lambda _: Memory(limit if free[-1] else 2 * limit, 0, 0))
    monkeypatch.setattr(Trial, "memory", fits_when_free)
    planned = make_plan(_module(layers=2), make_context(), PRICES, SolveOptions(5), limit)
    assert planned.choices.of_node == cheapest.of_node and cheapest.bytes > limit


def test_what_was_found_before_and_fits_goes_before_what_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The search may end early with what needs too much, cheaper than what fits."""
    module = _module()
    graph = PlanGraph(main_function(module), AxisTable(grid_of(module), ()), PRICES)
    search = Search(graph, SolveOptions(5))
    cheapest = search.run(None)
    fits = search.run(int(0.7 * cheapest.bytes))
    assert fits.bytes < cheapest.bytes and fits.solution.cost > cheapest.solution.cost
    monkeypatch.setattr(search, "_run", lambda _: cheapest)
    assert search.run(fits.bytes).of_node == fits.of_node
    assert search.run(fits.bytes - 1).of_node == cheapest.of_node


def test_the_footprint_is_near_the_partitioned_program() -> None:
    module = _module()
    graph = PlanGraph(main_function(module), AxisTable(grid_of(module), ()), PRICES)
    estimate = Search(graph, SolveOptions(5)).run(None).bytes
    make_plan(module, make_context(), PRICES, SolveOptions(5))
    actual = Trial(module.clone(), make_context(), PRICES).memory.peak
    assert 0.95 < estimate / actual < 1.1


def _skips(kernels: Any, image: Any) -> Any:
    """A gradient of convolutions over concatenated features, as a UNet has them."""

    def convolved(x: Any, kernel: Any) -> Any:
        numbers = ("NHWC", "HWIO", "NHWC")
        found = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)
        return jax.nn.relu(found)

    def loss(kernels: Any) -> Any:
        one = convolved(image, kernels[0])
        two = convolved(jnp.concatenate([one, image], -1), kernels[1])
        return jnp.mean(convolved(jnp.concatenate([one, two], -1), kernels[2]) ** 2)

    return jax.grad(loss)(kernels)


def _contrast(weights: Any, rows: Any) -> Any:
    """A gradient through the diagonal of a product, which is gathered and scattered."""

    def loss(weights: Any) -> Any:
        logits = jnp.tanh(rows @ weights[0]) @ jnp.tanh(rows @ weights[1]).T
        return jnp.mean(jax.nn.logsumexp(logits, 1) - jnp.diagonal(logits))

    return jax.grad(loss)(weights)


_IMAGE = jax.ShapeDtypeStruct((16, 32, 32, 64), np.float32)
_KERNELS = [jax.ShapeDtypeStruct((3, 3, width, 64), np.float32) for width in (64, 128, 128)]
_ROWS = jax.ShapeDtypeStruct((4096, 512), np.float32)
_WEIGHTS = [jax.ShapeDtypeStruct((512, 512), np.float32)] * 2


@pytest.mark.parametrize(
    ("step", "args"), [(_skips, (_KERNELS, _IMAGE)), (_contrast, (_WEIGHTS, _ROWS))]
)
def test_the_footprint_counts_copies_of_every_op(step: Any, args: Any) -> None:
    module = _imported(jax.jit(step).lower(*args))
    planned = make_plan(module, make_context(), PRICES, SolveOptions(5))
    actual = Trial(module.clone(), make_context(), PRICES).memory.peak
    assert planned.choices.bytes == pytest.approx(actual, rel=0.03)


def _wide(weights: Any, rows: Any) -> Any:
    """A gradient through layers that widen: a weight that lies split is read forward and
    backward."""

    def loss(weights: Any) -> Any:
        h = rows
        for up, down in weights:
            h = h + jnp.tanh(h @ up) @ down
        return jnp.mean(h**2)

    return jax.tree.map(lambda w, g: w - 0.1 * g, weights, jax.grad(loss)(weights))


def _wide_module() -> ModuleOp:
    shapes = (512, 2048), (2048, 512)
    layer = tuple(jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes)
    rows = jax.ShapeDtypeStruct((512, 512), np.float32)
    lowered = jax.jit(_wide, donate_argnums=0).lower([layer] * 4, rows)
    return _imported(lowered)


def test_the_footprint_counts_sums_that_wait_for_each_other() -> None:
    """XLA makes one all_reduce of all gradients: the parts are there until the last is."""
    module = _wide_module()
    planned = make_plan(module, make_context(), PRICES, SolveOptions(5))
    trial = Trial(module.clone(), make_context(), PRICES)
    assert {use.kind for use in trial.collectives} == {"all_reduce"}
    assert planned.choices.bytes == pytest.approx(trial.memory.peak, rel=0.03)


def test_more_memory_does_not_cost_time() -> None:
    """12 MiB lie between what plans need by the footprint, and what they are found to."""
    seconds: list[float] = []
    for limit in (10 * 2**20, 12 * 2**20):
        module = _wide_module()
        make_plan(module, make_context(), PRICES, SolveOptions(20), limit)
        trial = Trial(module.clone(), make_context(), PRICES)
        assert trial.memory.peak <= limit
        seconds.append(trial.price.total)
    assert seconds[1] < seconds[0]


def test_a_plan_fits_however_little_its_footprint_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cheapest plan takes 13 MiB."""

    def little(*args: Any) -> tuple[Any, int]:
        apart, most = made_again(*args)
        return apart, most // 10

    monkeypatch.setattr(road, "made_again", little)
    module, limit = _wide_module(), 12 * 2**20
    make_plan(module, make_context(), PRICES, SolveOptions(20), limit)
    assert Trial(module, make_context(), PRICES).memory.peak <= limit


def _decode(weights: Any, cache: Any, tokens: Any, now: Any) -> Any:
    """Attention of four heads a group to a cache that a token is written into."""
    query, *new, out = weights
    keys, values = (
        jax.lax.dynamic_update_slice(
            old, jnp.einsum("bd,dgk->bgk", tokens, weight)[:, None], (0, now, 0, 0)
        )
        for old, weight in zip(cache, new, strict=True)
    )
    scores = jnp.einsum("bghk,btgk->bght", jnp.einsum("bd,dghk->bghk", tokens, query), keys)
    chances = jax.nn.softmax(scores.astype(jnp.float32)).astype(tokens.dtype)
    read = jnp.einsum("bght,btgk->bghk", chances, values)
    return (keys, values), tokens + jnp.einsum("bghk,ghkd->bd", read, out)


def test_what_fits_though_its_footprint_does_not_is_found() -> None:
    """Nothing fits by the footprint; nor does the cheapest plan of all."""
    array = partial(jax.ShapeDtypeStruct, dtype=jnp.bfloat16)
    shapes = (4096, 8, 4, 128), (4096, 8, 128), (4096, 8, 128), (8, 4, 128, 4096)
    lowered = jax.jit(_decode, donate_argnums=1).lower(
        [*map(array, shapes)],
        [array((4, 32768, 8, 128))] * 2,
        array((4, 4096)),
        jax.ShapeDtypeStruct((), jnp.int32),
    )
    prices, limit = CostModel.of(read_cluster("8xh100"), GRID), 90_000_000
    module = _imported(lowered)
    planned = make_plan(module, make_context(), prices, SolveOptions(20), limit)
    footprint = Footprint(planned.graph)
    assert footprint.peak(footprint.least()) > limit
    assert Trial(module, make_context(), prices).memory.peak <= limit


def _scaled_by_rows(weights: Any, state: Any, rows: Any) -> Any:
    """Gradients scaled by the means of their rows and columns (Adafactor), and their norm: many
    small sums, of which the search does not know how many meet."""

    def loss(weights: Any) -> Any:
        h = rows
        for weight in weights:
            h = jnp.tanh(h @ weight)
        return jnp.mean((h - rows) ** 2)

    value, grads = jax.value_and_grad(loss)(weights)
    new_weights, new_state = [], []
    for weight, (row, column), grad in zip(weights, state, grads, strict=True):
        row = 0.9 * row + 0.1 * jnp.mean(grad**2, 1)
        column = 0.9 * column + 0.1 * jnp.mean(grad**2, 0)
        step = grad * jax.lax.rsqrt(row / jnp.mean(row))[:, None] * jax.lax.rsqrt(column)
        step = step / jnp.maximum(1.0, jnp.sqrt(jnp.mean(step**2)))
        new_weights.append(weight - 1e-3 * step)
        new_state.append((row, column))
    norm = jnp.sqrt(sum(jnp.sum(grad**2) for grad in grads))
    return new_weights, new_state, value, norm


def test_more_memory_does_not_cost_time_where_the_search_is_far_off() -> None:
    array = jax.ShapeDtypeStruct
    shapes = (128, 256), (256, 384), (384, 128)
    weights = [array(shape, np.float32) for shape in shapes]
    state = [tuple(array((size,), np.float32) for size in shape) for shape in shapes]
    lowered = jax.jit(_scaled_by_rows, donate_argnums=(0, 1)).lower(
        weights, state, array((64, 128), np.float32)
    )
    prices = CostModel.of(read_cluster("cpu"), GRID)
    seconds: list[float] = []
    for limit in (396_105, 475_326):
        module = _imported(lowered)
        make_plan(module, make_context(), prices, SolveOptions(20), limit)
        trial = Trial(module.clone(), make_context(), prices)
        assert trial.memory.peak <= limit
        seconds.append(trial.price.total)
    assert seconds[1] <= seconds[0]


def test_what_is_read_again_is_not_held_where_there_is_no_room() -> None:
    module = _wide_module()
    limit = 10 * 2**20
    planned = make_plan(module, make_context(), PRICES, SolveOptions(5), limit)
    assert any(AGAIN in op.attributes for op in module.walk())
    trial = Trial(module.clone(), make_context(), PRICES)
    assert trial.memory.peak <= limit
    # Among it copies of donated weights that are read after their update.
    assert planned.choices.bytes == pytest.approx(trial.memory.peak, rel=0.03)
    assert planned.choices.solution.cost * UNIT_S == pytest.approx(trial.price.total, rel=0.01)


def test_the_footprint_counts_small_gathers_that_run_as_one() -> None:
    """They lie in one buffer until the last is read; what dots read of it is copied."""
    module = _module(layers=6, width=128, rows=2048)
    demands = Demands(zero=3)
    planned = make_plan(module, make_context(), PRICES, SolveOptions(5), demands=demands)
    trial = Trial(module.clone(), make_context(), PRICES)
    assert any(COMBINE in op.attributes for op in trial.module.walk())
    assert planned.choices.bytes == pytest.approx(trial.memory.peak, rel=0.05)


def _leap(now: Any, before: Any) -> Any:
    return 2 * now - before, now


@pytest.mark.parametrize("looped", [False, True])
def test_the_footprint_counts_copies_of_what_is_handed_on(looped: bool) -> None:
    """A donated argument is returned at another's place, by a step or by a loop's body."""

    def steps(now: Any, before: Any) -> Any:
        return jax.lax.fori_loop(0, 9, lambda _, fields: _leap(*fields), (now, before))

    field = jax.ShapeDtypeStruct((512, 512), np.float32)
    lowered = jax.jit(steps if looped else _leap, donate_argnums=(0, 1)).lower(field, field)
    module = _imported(lowered)
    planned = make_plan(module, make_context(), PRICES, SolveOptions(5))
    parts = prod(size for _, size in GRID.axes)
    own = 3 * 4 * 512 * 512 // parts  # of three: the fields and a copy
    assert own <= planned.choices.bytes < 1.01 * own
    assert own <= Trial(module, make_context(), PRICES).memory.peak < 1.01 * own


def test_no_plan_is_sought_that_is_dearer_than_a_rival_that_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The plan that is found within the limit turns out too large, late and early, but a cheaper
    rival fits."""
    limits: list[int | None] = []
    run = Search.run

    def noted(search: Search, limit: int | None) -> Choices:
        if limit != sys.maxsize:  # that of the cheapest plan of all
            limits.append(limit)
        return run(search, limit)

    trials: list[Trial] = []

    def memory(trial: Trial) -> Memory:
        if trial not in trials:
            trials.append(trial)
        return Memory(2**30 if trial in trials[:2] else 2**20, 0, 0)

    monkeypatch.setattr(Search, "run", noted)
    monkeypatch.setattr(Trial, "memory", property(memory))
    limit = 11 * 2**20
    planned = make_plan(_module(layers=2), make_context(), PRICES, SolveOptions(5), limit)
    assert limits == [limit, limit]
    assert planned.tried is not None and planned.tried not in trials[:2]


def _sum_first(weights: Any, rows: Any) -> Any:
    return (rows @ weights).sum(), weights * 2


def _padded(weights: Any, rows: Any) -> Any:
    return rows @ weights, jnp.pad(rows, ((1, 1), (0, 0)))


@pytest.mark.parametrize("step", [_sum_first, _padded])
def test_an_empty_batch_is_planned(step: Any) -> None:
    """It is the first small argument that is gathered; nobody holds a row that others fetch."""
    weights, rows = (jax.ShapeDtypeStruct(shape, np.float32) for shape in ((16, 8), (0, 16)))
    module = _imported(jax.jit(step).lower(weights, rows))
    planned = make_plan(module, make_context(), PRICES, SolveOptions(5))
    trial = planned.partitioned(module, make_context(), PRICES).tried
    assert trial is not None and trial.memory.peak < 2**12


def test_copies_of_constants_are_no_part_of_a_graph() -> None:
    """A plan gives each operand of a product its own copy of what both are: it still stands when
    memory that is freed early is asked for."""

    def step(rows: Any) -> Any:
        both = jnp.ones((64, 64))
        return (both @ both) @ rows

    module = _imported(jax.jit(step).lower(jax.ShapeDtypeStruct((64, 64), np.float32)))
    planned = make_plan(module, make_context(), PRICES, SolveOptions(5), 30_000)
    trial = planned.partitioned(module, make_context(), PRICES).tried
    assert trial is not None and trial.memory.peak <= 30_000


def test_the_footprint_counts_what_lies_and_what_is_copied() -> None:
    module = _module(layers=2)
    graph = PlanGraph(main_function(module), AxisTable(grid_of(module), ()), PRICES)
    footprint = Footprint(graph)
    assert any(copy.bytes.any() for copy in footprint.copies)
    rng = np.random.default_rng(0)
    for _ in range(20):
        chosen = [int(rng.integers(node.size)) for node in graph.nodes]
        found = footprint.over_time(chosen)
        for time in range(0, len(found), 7):
            expected = sum(
                item.bytes[chosen[item.node]]
                for item in footprint.items
                if item.first <= time <= item.last
            ) + sum(
                copy.bytes[chosen[copy.one], chosen[copy.two]]
                for copy in footprint.copies
                if copy.first <= time <= copy.last
            )
            assert found[time] == pytest.approx(expected)
        assert footprint.peak(chosen) >= footprint.peak(footprint.least()) * 0.999
        nodes = rng.integers(len(chosen), size=5).tolist()
        other = list(chosen)
        for node in nodes:
            other[node] = int(rng.integers(graph.nodes[node].size))
        ends = np.array(chosen), np.array(other)
        instead = footprint.over_time_instead(found, *ends, nodes)
        assert instead == pytest.approx(footprint.over_time(other))
