"""`autopar explain`, and `Plan.explain`."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import autopar
from autopar.cli import main
from autopar.dialects import make_context
from autopar.explain import choices_read_off
from autopar.passes.planning.alternatives import Alternatives
from autopar.passes.planning.explain import Explainer
from autopar.passes.planning.report import table_of
from autopar.plans import Plan
from autopar.sources import imported, plan_module, planner_of, read_source

GRID = "grid=2x4 cluster=8xv100"


def step(params: Any, batch: Any) -> Any:
    def loss(params: Any) -> Any:
        hidden = jnp.tanh(batch @ params["up"])
        return jnp.mean((hidden @ params["down"] - batch) ** 2)

    grads = jax.grad(loss)(params)
    return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)


def arguments() -> Any:
    def shaped(*shape: int) -> Any:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    return {"up": shaped(1024, 4096), "down": shaped(4096, 1024)}, shaped(4096, 1024)


@cache
def text() -> str:
    lowered = jax.jit(step, donate_argnums=0).lower(*arguments())
    return lowered.compiler_ir("stablehlo").operation.get_asm(enable_debug_info=True)


@pytest.fixture
def module(tmp_path: Path) -> str:
    path = tmp_path / "step.mlir"
    path.write_text(text())
    return str(path)


def explain(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main(["explain", *words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_value(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = explain(capsys, module, "params['up']", "--auto-shard", GRID)
    assert (status, err) == (0, "")
    assert out.startswith("params['up'] : tensor<1024x4096xf32>, argument 1 (parameter)\n")
    assert "  decided by the search\n" in out
    assert "by the search's prices; with another choice:" in out
    assert "(the whole program planned again)" in out


def scanned_text() -> str:
    """Of layers whose plan is a rival's."""

    def scanned(params: Any, batch: Any) -> Any:
        def layer(h: Any, own: Any) -> Any:
            return h + jnp.tanh(h @ own["up"]) @ own["down"], None

        def loss(params: Any) -> Any:
            return jnp.mean(jax.lax.scan(layer, batch, params)[0] ** 2)

        return jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params))

    shapes = {"up": (4, 256, 1024), "down": (4, 1024, 256)}
    params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    batch = jax.ShapeDtypeStruct((2048, 256), jnp.float32)
    return jax.jit(scanned, donate_argnums=0).lower(params, batch).as_text(debug_info=True)


def test_a_plan_of_a_rival(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the search's prices alone its choices are not the cheapest."""
    module, page = tmp_path / "step.mlir", tmp_path / "plan.html"
    module.write_text(scanned_text())
    _, out, _ = explain(capsys, str(module), "params['up']", "--auto-shard", GRID)
    assert "  decided by a rival of the search's plan\n" in out
    assert " by its partitioned program, " in out
    _, out, _ = explain(capsys, str(module), "--all", "--auto-shard", GRID, "--json")
    values = json.loads(out)["values"]
    assert main(["plan", str(module), "--auto-shard", GRID, "--json", "-q"]) == 0
    report = json.loads(capsys.readouterr().out)
    told = {value["partitioned_seconds"] for value in values}
    assert told == {report["objective"]["total_s"]}
    assert report["solver"]["rival"]
    said = "taken among rivals for its partitioned program; by the search's prices, which are rough"
    assert said in table_of(report)
    assert main(["view", str(module), "-o", str(page), "--auto-shard", GRID, "-q"]) == 0
    assert said in page.read_text()


def test_what_is_cheaper_by_rough_prices_is_at_least_so(module: str) -> None:
    """Nothing is below 0 for sure of a plan that is not the search's cheapest."""
    source = read_source(module, GRID)
    planned, terms = plan_module(planner_of(GRID), *imported(source))
    *_, dearest = sorted(
        Alternatives(planned.graph, planned.choices.of_node, None).of(0), key=lambda a: a.seconds
    )
    explainer = Explainer(planned.graph, dearest.chosen, demands=terms.demands, by="rival")
    others = [other for one in explainer.explain("params") for other in one.others]
    assert any(other.seconds < 0 for other in others)
    assert all(other.at_least is None or other.at_least <= other.seconds for other in others)
    assert "less than 0: by the search's prices alone" in "\n".join(
        map(str, explainer.explain("params"))
    )


def test_options_may_stand_before_the_value(
    module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = explain(capsys, module, "--auto-shard", GRID, "arg0")
    assert (status, err) == (0, "") and "argument 0" in out
    for words in (["arg0", "arg1"], ["--none", "arg0"]):
        status, _, err = explain(capsys, module, "--auto-shard", GRID, *words)
        assert status == 1 and "unrecognized arguments: " in err


def test_a_place_in_the_source(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = _line("jnp.tanh(")
    status, out, _ = explain(capsys, module, f"test_explain.py:{line}", "--auto-shard", GRID)
    assert status == 0
    assert f"dot_general (jvp(), test_explain.py:{line}) : tensor<4096x4096xf32>, op" in out


def test_all_arguments(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = explain(capsys, module, "--all", "--auto-shard", GRID)
    assert status == 0
    head, *rows = out.splitlines()
    assert head.split() == "type layout decided by next best a step takes".split()
    assert [row.split()[0] for row in rows] == ["params['down']", "params['up']", "batch"]


def test_json(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = explain(capsys, module, "arg0", "--auto-shard", GRID, "--json")
    assert status == 0
    data = json.loads(out)
    (value,) = data["values"]
    assert data["version"] == 1
    assert value["name"] == "params['down']"
    assert value["decided_by"] == "search"
    first = value["others"][0]
    assert first["basis"] == "replanned"
    assert 0 <= first["at_least"] <= first["seconds"] + 1e-12


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["parms", "--auto-shard", GRID], "no value is named 'parms': near to it are"),
        (["arg9", "--auto-shard", GRID], "there are arg0 to arg2, out0 to out1"),
        (["arg0", "--auto-shard", "grid=2xx4"], "grid"),
        (["arg0", "--auto-shard", "gird=2x4"], "gird"),
        (["arg0"], "grid"),
        ([], "give a VALUE, or --all"),
        (["arg0", "--all"], "give a VALUE, or --all"),
    ],
)
def test_errors_are_one_line(
    words: list[str], message: str, module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = explain(capsys, module, *words)
    assert (status, out) == (1, "")
    assert message in err
    assert err.count("\n") == 1


def test_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = explain(capsys, "nowhere.mlir", "arg0")
    assert status == 1
    assert err == "autopar explain: error: cannot read nowhere.mlir: No such file or directory\n"


# ---- from Python ---------------------------------------------------------------------------------


def plan_of(method: Any) -> Plan:
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    return autopar.parallelize(step, method=method, mesh=mesh).lower(*arguments()).plan


def auto() -> Any:
    return autopar.AutoShardParallel(options={"cluster": "8xv100"})


def test_plans_explain_themselves() -> None:
    plan = plan_of(auto())
    layouts = plan.shardings()
    told = plan.explain()
    assert {one.name: one.layout.replace(", ", ",") for one in told} == {
        name: layout.replace(", ", ",") for name, layout in layouts.items()
    }
    (one,) = plan.explain("params['up']")
    assert one.decided_by == "search" and plan.modelled is not None
    assert one.partitioned_seconds == plan.modelled.seconds.total_s
    assert all(other.seconds > -1e-9 for other in one.others)
    assert one.step_seconds == pytest.approx(plan.explain("out0")[0].step_seconds)


def test_choices_are_read_off_exactly() -> None:
    """They are those of a search of the same program."""
    plan = plan_of(auto())
    assert plan.road is not None and plan.road.planner is not None
    planned, _ = plan.road.planner.plan(make_context(), plan.road.undecided())
    _, chosen = choices_read_off(plan)
    assert chosen == planned.choices.of_node


def test_what_a_method_states() -> None:
    plan = plan_of("zero3")
    (one,) = plan.explain("params['up']")
    assert one.decided_by == "user"
    assert one.why.startswith("the method 'zero3', or the program, states")


def test_plans_from_files_are_not_priced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plan.json"
    plan = plan_of("zero3")
    plan.save(path)
    status, out, err = explain(capsys, str(path), "params['up']")
    assert (status, err) == (0, "")
    assert out.startswith(
        "params['up'] : tensor<1024x4096xf32>, argument 1 (parameter)\n  [-, data,model]:"
    )
    assert "decided by what is stated: the method 'zero3', or the program, states it" in out
    assert "not priced: the plan is from a file, which has no program" in out
    _, out, _ = explain(capsys, str(path), "params['up']", "--json")
    assert json.loads(out)["values"][0]["step_seconds"] is None
    told = Plan.load(path).explain()
    assert [(one.name, one.layout) for one in told] == [*plan.shardings().items()]
    status, _, err = explain(capsys, str(path), "params['upp']")
    assert status == 1
    assert "no value is named \"params['upp']\": near to it are params['up']" in err
    assert err.count("\n") == 1


def test_a_shard_map_says_where_its_results_lie() -> None:
    mesh = jax.make_mesh((2, 4), ("x", "y"), axis_types=(AxisType.Auto,) * 2)

    def function(x: Any, w: Any) -> Any:
        mapped = jax.shard_map(
            lambda part: jax.lax.psum(part, "y"), mesh=mesh, in_specs=P("x", "y"), out_specs=P("x")
        )
        return mapped(x) @ w

    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1024, 1024), (256, 512))]
    plan = autopar.parallelize(function, method=auto(), mesh=mesh).lower(*shapes).plan
    assert all(other.seconds > -1e-9 for other in plan.explain("out0")[0].others)
    assert plan.arguments[0].dims == (("x",), ("y",))
    assert [use.kind for use in plan.collectives] == ["all_reduce"]
    found = [one for one in plan.explain(f"test_explain.py:{_line('mapped(x)')}")]
    assert (("x",), "user") in [(one.dims[0], one.decided_by) for one in found if one.dims]


def _line(text: str) -> int:
    """The line of this file that begins a function's call with a text in it."""
    lines = Path(__file__).read_text().splitlines()
    return next(i for i, row in enumerate(lines, 1) if text in row and "_line" not in row)


def test_what_is_split_unevenly_is_not_priced() -> None:
    def function(w: Any, x: Any) -> Any:
        return jnp.tanh(x @ w) @ w.T

    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((30, 7), (10, 30))]
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    plan = autopar.parallelize(function, method="dp", mesh=mesh).lower(*shapes).plan
    (one,) = plan.explain("arg1")
    assert one.note.startswith("not priced: a value lies as")
    assert one.others == ()


def test_unknown_values() -> None:
    with pytest.raises(ValueError, match="no value is named 'nothing'"):
        plan_of("dp").explain("nothing")
