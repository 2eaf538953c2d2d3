"""The options of auto-shard that limit plans, seen in what the partitioned program does."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp

import autopar
from autopar.decisions import Recorder
from autopar.dialects import make_context
from autopar.dialects.autopar import arg_shardings, set_arg_shardings, set_result_shardings
from autopar.dialects.diagnostics import DiagnosticError, collect_remarks
from autopar.dialects.sharding import Grid, Sharding
from autopar.lowering.importer import import_module
from autopar.lowering.parse import parse_module
from autopar.passes.cost.flops import flops_of
from autopar.passes.cost.report import collectives_of
from autopar.passes.entry import main_function
from autopar.passes.manager import option_help, run_passes
from autopar.passes.partition.resharder import Resharder
from autopar.passes.pipelines import DECIDE, IMPORT, PARTITION
from autopar.passes.planning import planner
from autopar.passes.planning.auto_shard import AutoShardPass
from autopar.passes.planning.demands import Demands, demanded_shardings
from autopar.passes.planning.report import table_of
from autopar.passes.planning.search import Search
from autopar.road import declare_mesh

GRID = Grid("mesh", (("x", 2), ("y", 4)))
WEIGHTS, ROWS = 3, 1024


def _step(state: Any, batch: Any) -> Any:
    params, moments = state

    def loss(params: Any) -> Any:
        h = batch
        for weight in params:
            h = jax.nn.relu(h @ weight)
        return jnp.mean(h**2)

    value, grads = jax.value_and_grad(loss)(params)
    moments = jax.tree.map(lambda m, g: 0.9 * m + g, moments, grads)
    return (jax.tree.map(lambda p, m: p - 0.1 * m, params, moments), moments), value


def _imported(width: int = 256, rows: int = ROWS) -> ModuleOp:
    params = [jax.ShapeDtypeStruct((width, width), np.float32) for _ in range(WEIGHTS)]
    batch = jax.ShapeDtypeStruct((rows, width), np.float32)
    lowered = jax.jit(_step, donate_argnums=0).lower((params, params), batch)
    module = import_module(lowered.compiler_ir("stablehlo"))
    declare_mesh(module, GRID)
    run_passes(module, IMPORT, make_context())
    return module


def _planned(width: int = 256, rows: int = ROWS, **options: Any) -> ModuleOp:
    module = _imported(width, rows)
    AutoShardPass(cluster="8xv100", **options).apply(make_context(), module)
    return module


def _axes(module: ModuleOp) -> list[list[list[str]]]:
    """The axes of each dimension, per argument: parameters, moments, batch."""
    found = [sharding for sharding in arg_shardings(main_function(module)) if sharding]
    return [[[axis.name for axis in dim.axes] for dim in sharding.dims] for sharding in found]


def _kinds(module: ModuleOp) -> Counter[str]:
    run_passes(module, (*DECIDE, *PARTITION), make_context())
    return Counter(use.kind for use in collectives_of(module))


def test_collectives_that_are_forbidden() -> None:
    demanding: dict[str, Any] = {"zero": 3, "batch_axis": "y"}
    assert _kinds(_planned(**demanding))["all_gather"]
    without = _kinds(_planned(**demanding, allow_all_gather=False))
    assert without["all_to_all"] and not without["all_gather"]
    columns = [[], ["y"]]
    assert _kinds(_moved(columns))["all_to_all"]
    without = _kinds(_moved(columns, allow_all_to_all=False))
    assert without["all_gather"] and not without["all_to_all"]


def _moved(to: list[list[str]], **options: Any) -> ModuleOp:
    """A plan of what is read split by rows, and given so."""
    params = jax.ShapeDtypeStruct((64, 64), np.float32)
    module = import_module(jax.jit(jnp.tanh).lower(params).compiler_ir("stablehlo"))
    declare_mesh(module, GRID)
    run_passes(module, IMPORT, make_context())
    func = main_function(module)
    set_arg_shardings(func, [Sharding.of("mesh", [["y"], []])])
    set_result_shardings(func, [Sharding.of("mesh", to)])
    AutoShardPass(cluster="8xv100", **options).apply(make_context(), module)
    return module


def test_forbidden_collectives_that_the_program_demands() -> None:
    with pytest.raises(DiagnosticError, match="no plan does without the collectives"):
        _moved([[], []], allow_all_gather=False)


def _two_layers(
    shardings: Sequence[str], results: Sequence[str], constraints: Sequence[str]
) -> str:
    """A module of two products and a gradient, whose arguments, results and two values between are
    annotated so; nothing where the text is empty."""

    def of(dims: str) -> str:
        return f" {{sdy.sharding = #sdy.sharding<@mesh, {dims}>}}" if dims else ""

    x, w, v = map(of, shardings)
    y, n = map(of, results)
    hidden, gradient = constraints
    return f"""
sdy.mesh @mesh = <["x"=2, "y"=4]>
func.func @main(%x: tensor<256x128xf32>{x}, %w: tensor<128x512xf32>{w}, %v: tensor<512x128xf32>{v})
    -> (tensor<256x128xf32>{y}, tensor<128x512xf32>{n}) {{
  %0 = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0]
    : (tensor<256x128xf32>, tensor<128x512xf32>) -> tensor<256x512xf32>
  %1 = stablehlo.tanh %0 : tensor<256x512xf32>
  %c1 = sdy.sharding_constraint %1 <@mesh, {hidden}> : tensor<256x512xf32>
  %2 = stablehlo.dot_general %c1, %v, contracting_dims = [1] x [0]
    : (tensor<256x512xf32>, tensor<512x128xf32>) -> tensor<256x128xf32>
  %g = stablehlo.dot_general %x, %1, contracting_dims = [0] x [0]
    : (tensor<256x128xf32>, tensor<256x512xf32>) -> tensor<128x512xf32>
  %c2 = sdy.sharding_constraint %g <@mesh, {gradient}> : tensor<128x512xf32>
  %n = stablehlo.subtract %w, %c2 : tensor<128x512xf32>
  return %2, %n : tensor<256x128xf32>, tensor<128x512xf32>
}}
"""


SLOW = """
version = 1
[device]
flops.f32 = 5e10
flops.bf16 = 5e10
memory_bytes = 3e9
memory_bandwidth = 1e10
[[link]]
size = 4
alpha = 1e-6
beta = 1e-10
[[link]]
size = 64
alpha = 2e-6
beta = 4e-10
"""
ANY = "[{?}, {?}]"
FORBIDDING = {
    # a result that is open lies as planned
    "open result": (
        "all_gather",
        _two_layers(['[{"x"}, {}]', "", ""], ["[{}, {?}]", ""], [ANY, ANY]),
    ),
    # an argument that two ops read is brought to each from where it lies
    "shared argument": (
        "all_to_all",
        _two_layers(
            ['[{}, {"x", ?}]', "[{}, {?}]", ANY],
            ["", '[{"y", ?}, {}]'],
            ['[{"x", "y", ?}, {}]', '[{"x"}, {?}]'],
        ),
    ),
    # what an op reads is not brought from another form of it
    "other form": (
        "all_gather",
        _two_layers(
            ["", '[{"y"}, {?}]', ""],
            ['[{"y", ?}, {"x", ?}]', '[{}, {"y", ?}]'],
            ['[{}, {"y", ?}]', '[{?}, {"y"}]'],
        ),
    ),
}


def _of_case(case: str) -> ModuleOp:
    module = parse_module(FORBIDDING[case][1], "model.mlir", make_context())
    run_passes(module, IMPORT, make_context())
    return module


def _plan_without(kind: str, module: ModuleOp, path: Path) -> None:
    """Plans on slow devices without a kind of collectives."""
    cluster = path / "slow.toml"
    cluster.write_text(SLOW)
    options: dict[str, Any] = {f"allow_{kind}": False}
    AutoShardPass(cluster=str(cluster), **options).apply(make_context(), module)


@pytest.mark.parametrize("case", FORBIDDING)
def test_forbidden_collectives_beside_open_annotations(case: str, tmp_path: Path) -> None:
    module, forbidden = _of_case(case), FORBIDDING[case][0]
    _plan_without(forbidden, module, tmp_path)
    kinds = _kinds(module)
    assert kinds and not kinds[forbidden]


def test_a_plan_whose_program_has_what_is_forbidden_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Resharder, "_may_begin_at", lambda *_: True)
    monkeypatch.setattr(planner, "best_of_rivals", lambda found, _: found)
    with pytest.raises(DiagnosticError, match="allow-all-gather=false: the plan that was found"):
        _plan_without("all_gather", _of_case("other form"), tmp_path)


def test_a_plan_again_does_without_what_is_forbidden(tmp_path: Path) -> None:
    module, recorder = _of_case("other form"), Recorder()
    recorder.before(module)
    _plan_without("all_gather", module, tmp_path)
    recorder.after(module, searched=True)
    assert recorder.decisions is not None
    again = _of_case("other form")
    recorder.decisions.write(again)
    assert not _kinds(again)["all_gather"]


def test_parameters_may_not_be_replicated() -> None:
    assert all(any(dims) for dims in _axes(_planned(allow_replicated_parameters=False))[:-1])


def test_compute_may_not_be_replicated() -> None:
    module = _planned(width=32, rows=64, allow_replicated_compute=False)
    whole = flops_of(module)
    run_passes(module, (*DECIDE, *PARTITION), make_context())
    assert flops_of(module) * GRID.num_devices == whole
    with pytest.raises(DiagnosticError, match="cannot be split over all 8 devices"):
        _planned(width=3, rows=5, allow_replicated_compute=False)


def test_one_axis_a_dimension() -> None:
    flat = _axes(_planned(rows=2**15))
    assert any(len(dim) == 2 for dims in flat for dim in dims)
    assert all(
        len(dim) < 2 for dims in _axes(_planned(rows=2**15, flatten_axes=False)) for dim in dims
    )


@pytest.mark.parametrize(("axis", "batch"), [(None, ["x", "y"]), ("y", ["y"]), ("x", ["x"])])
def test_data_parallelism(axis: str | None, batch: list[str]) -> None:
    shardings = _axes(_planned(force_data_parallel=True, batch_axis=axis))
    assert shardings[-1][0][: len(batch)] == batch
    assert not any(set(batch) & {a for dim in dims for a in dim} for dims in shardings[:WEIGHTS])


def test_the_batch_axis_alone() -> None:
    assert _axes(_planned(batch_axis="x"))[-1][0][:1] == ["x"]
    with pytest.raises(DiagnosticError, match=r"batch-axis=z: grid @mesh has no such axis .*x, y"):
        _planned(batch_axis="z")


@pytest.mark.parametrize("zero", [0, 2, 3])
def test_zero(zero: int) -> None:
    shardings = _axes(_planned(zero=zero, batch_axis="y"))
    holds = [any("y" in dim for dim in dims) for dims in shardings]
    assert holds[:WEIGHTS] == [zero == 3] * WEIGHTS
    assert holds[WEIGHTS : 2 * WEIGHTS] == [zero >= 2] * WEIGHTS


_ON, _OFF, _FREE = "on the batch axes", "not on the batch axes", ""


@pytest.mark.parametrize("axis", [None, "x"])
@pytest.mark.parametrize(
    ("options", "batch", "moments", "parameters"),
    [
        ({}, _FREE, _FREE, _FREE),
        ({"zero": 0}, _FREE, _OFF, _OFF),
        ({"zero": 2}, _FREE, _ON, _OFF),
        ({"zero": 3}, _FREE, _ON, _ON),
        ({"force_data_parallel": True}, _ON, _FREE, _OFF),
        ({"force_data_parallel": True, "zero": 2}, _ON, _ON, _OFF),
    ],
)
def test_what_options_force(
    options: dict[str, Any], batch: str, moments: str, parameters: str, axis: str | None
) -> None:
    """The table of docs/auto-shard.md; batch-axis lays the batch on its axis, whatever else."""
    module = _imported()
    found = demanded_shardings(main_function(module), GRID, Demands(batch_axis=axis, **options))
    axes = [name for name, _ in GRID.axes if axis in (None, name)]

    def said(sharding: Sharding | None) -> str:
        if sharding is None:
            return _FREE
        assert all(dim.is_open for dim in sharding.dims)
        split = [[own.name for own in dim.axes] for dim in sharding.dims if dim.axes]
        if split:
            assert split == [axes]
            return _ON
        assert [own.name for own in sharding.replicated] == axes
        return _OFF

    kinds = [said(sharding) for sharding in found]
    assert kinds[:WEIGHTS] == [parameters] * WEIGHTS
    assert kinds[WEIGHTS:-1] == [moments] * WEIGHTS
    assert kinds[-1] == (batch if axis is None else _ON)


def test_a_sharding_that_says_nothing_leaves_options_be() -> None:
    """JAX writes such ones: nothing is said by all dimensions being open."""
    module = _imported()
    func = main_function(module)
    is_open = Sharding.fully_replicated("mesh", 2, is_open=True)
    set_arg_shardings(func, [is_open] * len(func.body.block.args))
    set_result_shardings(func, [is_open] * 2 * WEIGHTS + [None])
    AutoShardPass(cluster="8xv100", zero=3, batch_axis="y").apply(make_context(), module)
    assert all(any("y" in dim for dim in dims) for dims in _axes(module))


@pytest.mark.parametrize("stated", [None, "argument", "result"])
def test_the_program_goes_before_options(stated: str | None) -> None:
    """Also where it states how a result lies, which takes the buffer of what zero=3 splits."""
    module = _imported()
    func = main_function(module)
    first = [Sharding.of("mesh", [[], ["x"]]), *[None] * (2 * WEIGHTS)]
    if stated is not None:
        (set_arg_shardings if stated == "argument" else set_result_shardings)(func, first)
    AutoShardPass(cluster="8xv100", zero=3, batch_axis="y").apply(make_context(), module)
    found = _axes(module)
    assert (found[0] == [[], ["x"]]) == (stated is not None)
    assert all(any("y" in dim for dim in dims) for dims in found[1:])


def test_reduce_scatters_are_preferred() -> None:
    without = _kinds(_planned(512, rows=2**15))
    preferred = _kinds(_planned(512, rows=2**15, prefer_reduce_scatter=True))
    assert preferred["reduce_scatter"] > without["reduce_scatter"]
    assert preferred["all_reduce"] < without["all_reduce"]


def test_reduce_scatters_are_preferred_in_scans() -> None:
    """A scan stores the gradients of a layer in those of all."""
    weights = jax.ShapeDtypeStruct((3, 512, 512), np.float32)
    batch = jax.ShapeDtypeStruct((2**13, 512), np.float32)

    def step(weights: Any, batch: Any) -> Any:
        def loss(weights: Any) -> Any:
            def layer(h: Any, weight: Any) -> Any:
                return jnp.tanh(h @ weight), None

            return jnp.mean(jax.lax.scan(layer, batch, weights)[0] ** 2)

        return weights - 0.1 * jax.grad(loss)(weights)

    module = import_module(
        jax.jit(step, donate_argnums=0).lower(weights, batch).compiler_ir("stablehlo")
    )
    declare_mesh(module, GRID)
    run_passes(module, IMPORT, make_context())
    AutoShardPass(cluster="8xh100", prefer_reduce_scatter=True).apply(make_context(), module)
    kinds = _kinds(module)
    assert kinds["reduce_scatter"] and not kinds["all_reduce"]


@pytest.mark.parametrize(
    ("width", "options"),
    [(512, {"zero": 0}), (512, {"force_data_parallel": True, "zero": 0}), (256, {})],
    ids=["whole state", "data parallel", "small sums"],
)
def test_sums_that_are_not_to_be_scattered(width: int, options: dict[str, Any]) -> None:
    without = _planned(width, rows=2**15, **options)
    preferred = _planned(width, rows=2**15, prefer_reduce_scatter=True, **options)
    assert _axes(preferred) == _axes(without)
    assert _kinds(preferred) == _kinds(without)


def test_sums_of_activations_keep_their_price() -> None:
    """Tensor parallelism sums activations in the forward phase, and no gradient at all."""
    w = {"a": jax.ShapeDtypeStruct((1024, 4096), np.float32)}
    w["b"] = jax.ShapeDtypeStruct((4096, 1024), np.float32)
    batch = jax.ShapeDtypeStruct((512, 1024), np.float32)

    def step(params: Any, x: Any) -> Any:
        def loss(params: Any) -> Any:
            return jnp.mean((jax.nn.relu(x @ params["a"]) @ params["b"]) ** 2)

        return jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params))

    def kinds(**options: Any) -> Any:
        method = autopar.AutoShardParallel(options={"cluster": "8xh100", **options})
        plan = autopar.plan(step, w, batch, mesh=(2, 4), method=method, donate_argnums=0)
        return plan.shardings(), [(use.kind, use.axes) for use in plan.collectives]

    assert kinds(prefer_reduce_scatter=True) == kinds()
    assert kinds()[1] == [("all_reduce", ("model",))]


def test_options_that_contradict() -> None:
    with pytest.raises(ValueError, match="zero=1: expected 0, 2 or 3"):
        AutoShardPass(zero=cast(Any, 1))
    with pytest.raises(ValueError, match="keeps parameters whole, zero=3 splits them"):
        AutoShardPass(zero=3, force_data_parallel=True)
    with pytest.raises(ValueError, match="memory-per-device=lots: expected bytes, as in 16GiB"):
        AutoShardPass(memory_per_device="lots")


@pytest.mark.parametrize("said", [False, True])
def test_a_remark_where_nothing_says_what_is_state(said: bool) -> None:
    entry = ' {autopar.kind = "parameter"}' if said else ""
    text = f"""func.func @main(%w: tensor<64x64xf32>{entry}, %x: tensor<64x64xf32>)
        -> tensor<64x64xf32> {{
      %0 = stablehlo.multiply %w, %x : tensor<64x64xf32>
      return %0 : tensor<64x64xf32>
    }}"""
    module, context = parse_module(text, "a.mlir"), make_context()
    with collect_remarks() as remarks:
        AutoShardPass(grid="2x4", zero=3, batch_axis="x").apply(context, module)
    found = [one.message for one in remarks if "no argument is donated" in one.message]
    assert [one.partition(": no")[0] for one in found] == (
        [] if said else ["auto-shard: batch-axis, zero"]
    )


def test_report(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    with collect_remarks() as remarks:
        module = _planned(rows=8192, memory_per_device="64MiB", report=str(path))
    report = json.loads(path.read_text())
    objective, memory = report["objective"], report["memory"]
    parts = ("compute_s", "memory_s", "communication_s")
    assert objective["total_s"] == pytest.approx(sum(objective[part] for part in parts))
    assert memory["peak_bytes"] <= memory["limit_bytes"] == 64 * 2**20
    assert report["solver"]["gap"] < 1e-3
    assert [argument["sharding"] for argument in report["arguments"]] == _axes(module)
    sent = {(use["kind"], tuple(use["axes"])): use["ring_bytes"] for use in report["collectives"]}
    run_passes(module, (*DECIDE, *PARTITION), make_context())
    assert sum(sent.values()) == pytest.approx(sum(use.num_bytes for use in collectives_of(module)))
    text = "\n".join(diagnostic.message for diagnostic in remarks)
    assert "of 64 MiB" in text and "sent by each device" in text
    use = report["collectives"][0]
    use.update(axes=[], group=2)  # as of groups that are those of no axes
    assert f"{use['kind']} over groups of 2: " in table_of(report)


def test_where_no_report_can_be_written_is_said_before_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Search, "run", None)
    with pytest.raises(DiagnosticError, match=r"report=.*No such file"):
        _planned(report=str(tmp_path / "none" / "report.json"))
    with pytest.raises(DiagnosticError, match=r"report=.*Is a directory"):
        _planned(report=str(tmp_path))


def test_options_and_demands_are_said_once() -> None:
    """What a demand means stands at the pass's option, what it is by default at the demand."""
    assert not option_help(Demands)
    options = {field.name: field.default for field in fields(AutoShardPass)}
    demands = {field.name: field.default for field in fields(Demands)}
    assert demands.items() <= options.items()
    assert demands.keys() <= option_help(AutoShardPass).keys()


def test_demands_that_contradict_each_other() -> None:
    with pytest.raises(ValueError, match="zero=2 keeps parameters whole, allow-replicated"):
        Demands(zero=2, allow_replicated_parameters=False)
    with pytest.raises(ValueError, match="force-data-parallel keeps parameters whole"):
        Demands(force_data_parallel=True, allow_replicated_parameters=False)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"force_data_parallel": True}, "force-data-parallel lays the batch"),
        ({"zero": 2}, "zero=2 lays the state"),
        ({"zero": 3}, "zero=3 lays the state"),
    ],
)
def test_data_parallelism_takes_all_axes(options: dict[str, Any], what: str) -> None:
    with pytest.raises(DiagnosticError, match=f"{what} on x, y at once, flatten-axes=false"):
        _planned(flatten_axes=False, **options)
    sharded = _axes(_planned(flatten_axes=False, batch_axis="y", **options))
    assert sharded[-1][0] == ["y"]


def test_data_parallelism_without_a_batch_is_told() -> None:
    def loss(weight: Any, table: Any) -> Any:
        return ((weight @ table) ** 2).sum()

    method = autopar.AutoShardParallel(options={"force_data_parallel": True})
    step = autopar.parallelize(loss, method=method, mesh=(8,))
    arrays = np.ones((64, 32), np.float32), np.ones((32, 64), np.float32)
    with pytest.raises(DiagnosticError, match="no argument is known to be a batch: say which are"):
        step.lower(*arrays).plan  # noqa: B018


# ---- Options given in Python ---------------------------------------------------------------------

GOOD: list[tuple[str, Any, Any]] = [
    ("force_data_parallel", "false", False),
    ("allow_all_gather", "no", False),
    ("flatten_axes", 0, False),
    ("allow_all_to_all", False, False),
    ("zero", "2", 2),
    ("zero", 3, 3),
    ("alpha", 1e-6, (1e-6,)),
    ("beta", [1e-12, 2], (1e-12, 2.0)),
    ("memory_per_device", 2**30, 2**30),
    ("memory_per_device", 80e9, 80_000_000_000),
    ("memory_per_device", np.int64(7000), 7000),
    ("memory_per_device", "1GiB", "1GiB"),
    ("memory_per_device", None, None),
    ("cluster", Path("my.toml"), "my.toml"),
    ("time_limit", "5", 5.0),
    ("seed", "7", 7),
]
BAD: list[tuple[str, Any, str]] = [
    ("force_data_parallel", "perhaps", "force_data_parallel='perhaps': expected true or false"),
    ("allow_all_gather", 2, "allow_all_gather=2: expected true or false"),
    ("flatten_axes", None, "flatten_axes=None: expected true|false"),
    ("objective", "foo", "objective='foo': expected one of time, communication"),
    ("zero", 1, "zero=1: expected one of 0, 2, 3"),
    ("zero", True, "zero=True: expected one of 0, 2, 3"),
    ("alpha", ["a"], r"alpha=\['a'\]: expected a number"),
    ("alpha", [], r"alpha=\[\]: expected number,…"),
    ("alpha", {"x": 1.0}, r"alpha={'x': 1.0}: expected number,…"),
    ("alpha", float("inf"), "alpha=inf: inf is no number of seconds from 0 to 1000"),
    ("beta", (0.0, float("nan")), "beta=0,nan: nan is no number of seconds from 0 to 1000"),
    ("memory_per_device", True, r"memory_per_device=True: expected integer\|text"),
    ("memory_per_device", 0, "memory-per-device=0: expected bytes"),
    ("memory_per_device", -(2**30), "memory-per-device=-1073741824: expected bytes"),
    ("memory_per_device", 2**70, "memory-per-device=1180591620717411303424: expected bytes"),
    ("memory_per_device", "1e400", "memory-per-device=1e400: expected bytes, as in 16GiB"),
    ("memory_per_device", float("inf"), r"memory_per_device=inf: expected integer\|text"),
    ("cluster", 8, "cluster=8: expected text"),
    ("batch_axis", 0, "batch_axis=0: expected text"),
    ("time_limit", [5], r"time_limit=\[5\]: expected number"),
    ("time_limit", float("inf"), "time-limit=inf: expected a number of seconds above 0"),
    ("seed", None, "seed=None: expected integer"),
    ("seed", 1.5, "seed=1.5: expected a whole number"),
    ("seed", float("inf"), "seed=inf: expected a whole number"),
    ("seed", -1, "seed=-1: expected a whole number of at least 0"),
]


@pytest.mark.parametrize(("option", "value", "taken"), GOOD)
def test_options_of_python(option: str, value: Any, taken: Any) -> None:
    made: Any = autopar.AutoShardParallel(options={"cluster": "cpu", option: value})
    found = getattr(made._planner(made.options), option)
    assert (found, type(found)) == (taken, type(taken))


@pytest.mark.parametrize(("option", "value", "message"), BAD)
def test_wrong_options_of_python(option: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        autopar.AutoShardParallel(options={option: value})
