"""Plans in files, used again, and refused where they do not belong."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import autopar
from autopar.passes.planning.auto_shard import AutoShardPass
from tests.autopar.planned_steps import (
    assert_close,
    batch,
    loss,
    mesh,
    params,
    program,
    random,
    train,
)


@pytest.mark.parametrize("method", ["dp", "zero2", "zero3", "auto"])
@pytest.mark.parametrize("name", ["mlp", "gpt"])
def test_a_loaded_plan_gives_the_same_program(
    name: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, state, examples = program(name)
    lowered = autopar.parallelize(step, mesh=mesh(), method=method).lower(state, examples)
    expected = lowered.as_text("spmd")
    lowered.plan.save(tmp_path / "plan.json")
    loaded = autopar.Plan.load(tmp_path / "plan.json")
    assert str(loaded) == str(lowered.plan).partition("\n\nremarks")[0]

    def search(*_: Any) -> None:
        raise AssertionError("a search")

    monkeypatch.setattr(AutoShardPass, "apply", search)
    again = autopar.parallelize(step, method=loaded).lower(state, examples)
    assert again.as_text("spmd") == expected
    assert again.plan.decisions == lowered.plan.decisions


def test_a_loaded_plan_makes_again_what_the_plan_does(tmp_path: Path) -> None:
    """A weight that lies split, with no room to hold it whole from its first reader to the next."""

    def step(weights: Any, rows: Any) -> Any:
        def loss(weights: Any) -> Any:
            hidden = rows
            for up, down in weights:
                hidden = hidden + jnp.tanh(hidden @ up) @ down
            return jnp.mean(hidden**2)

        return jax.tree.map(lambda w, g: w - 0.1 * g, weights, jax.grad(loss)(weights))

    layers, rows = [(random(512, 2048) / 8, random(2048, 512) / 8)] * 4, random(512, 512)
    options = {"memory_per_device": "10MiB", "cluster": "8xv100"}
    method = autopar.AutoShardParallel(options=options)
    planned = autopar.parallelize(step, mesh=(2, 4), method=method, donate_argnums=0)
    plan = planned.lower(layers, rows).plan
    assert plan.decisions is not None
    assert any(op.again for op in plan.decisions.ops)
    plan.save(tmp_path / "plan.json")
    loaded = autopar.Plan.load(tmp_path / "plan.json")
    again = autopar.parallelize(step, method=loaded, donate_argnums=0).lower(layers, rows)
    assert again.plan.collectives == plan.collectives
    found = planned(jax.tree.map(jnp.array, layers), rows)
    assert_close(found, jax.jit(step)(layers, rows))


def test_a_loaded_plan_runs_and_applies(tmp_path: Path) -> None:
    plan = autopar.plan(train, params(), batch(), mesh=mesh())
    plan.save(tmp_path / "plan.json")
    loaded = autopar.Plan.load(tmp_path / "plan.json")
    expected = jax.jit(train)(params(), batch())
    assert_close(autopar.parallelize(train, method=loaded)(params(), batch()), expected)
    assert_close(jax.jit(loaded.apply(train))(params(), batch()), expected)
    with pytest.raises(ValueError, match="knows names, not pytrees"):
        _ = loaded.in_shardings
    assert loaded.shardings_of(params(), batch()) == plan.in_shardings
    with pytest.raises(ValueError, match="for 5 arrays, the arguments are 3"):
        loaded.shardings_of(params())


def test_shardings_are_of_the_arguments_that_were_planned_alone() -> None:
    plan = autopar.plan(train, params(), batch(), mesh=mesh(), num_micro_batches=2)
    assert plan.shardings_of(params(), batch()) == plan.in_shardings

    def other(change: Any) -> Any:
        first, *rest = jax.tree.leaves(batch())
        return jax.tree.unflatten(jax.tree.structure(batch()), [change(first), *rest])

    name = plan.arguments[len(jax.tree.leaves(params()))].name
    for change, found in (
        (lambda x: x[:-1], r"f?loat32\[.*\]"),
        (lambda x: x.astype(jnp.bfloat16), r"bfloat16\[.*\]"),
        (lambda x: 1.0, "a Python float"),
    ):
        match = rf"^{re.escape(name)} is {found}, in the plan tensor<.*xf32>: plan for these"
        with pytest.raises(ValueError, match=match) as error:
            plan.shardings_of(params(), other(change))
        assert "\n" not in str(error.value)


def test_where_there_is_no_file_it_is_said(tmp_path: Path) -> None:
    for path, kind in ((tmp_path / "no.json", FileNotFoundError), (tmp_path, IsADirectoryError)):
        with pytest.raises(kind, match=f"no plan can be read: .*: '{path}'"):
            autopar.Plan.load(path)


def test_microbatches_and_donation_belong_to_a_plan() -> None:
    plan = autopar.plan(
        train, params(), batch(), mesh=mesh(), num_micro_batches=2, donate_argnums=0
    )
    again = autopar.parallelize(train, method=plan, donate_argnums=0)
    assert again.lower(params(), batch()).plan.decisions == plan.decisions
    assert_close(again(params(), batch()), jax.jit(train)(params(), batch()))
    with pytest.raises(
        autopar.StalePlanError, match="argument 0 is donated in the plan, and not now"
    ):
        autopar.parallelize(train, method=plan)(params(), batch())


def test_stale_plans_are_refused() -> None:
    plan = autopar.plan(train, params(), batch(), mesh=mesh())
    again = autopar.parallelize(train, method=plan)
    with pytest.raises(
        autopar.StalePlanError,
        match="argument 3 is tensor<8x64xf32>, in the plan tensor<32x64xf32>",
    ):
        again(params(), batch(8))
    with pytest.raises(autopar.StalePlanError, match="is data=4, the plan is for data=8"):
        autopar.parallelize(train, method=plan, mesh=(4,))(params(), batch())
    demanded = NamedSharding(mesh(), PartitionSpec("data"))
    held = autopar.parallelize(
        train, method=plan, in_shardings=({"in": demanded, "bias": None, "out": None}, None)
    )
    with pytest.raises(autopar.StalePlanError, match=r"argument 1 is .* in the plan argument 1 is"):
        held(params(), batch())
    with pytest.raises(autopar.StalePlanError, match="another program"):
        autopar.parallelize(loss, method=plan)(params(), batch())


def test_files_that_are_no_plans(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    autopar.plan(train, params(), batch(), mesh=mesh(), method="dp").save(path)
    good = json.loads(path.read_text())

    def refused(kind: type[Exception], match: str, **changes: Any) -> None:
        path.write_text(json.dumps({k: v for k, v in {**good, **changes}.items() if v is not None}))
        with pytest.raises(kind, match=match) as error:
            autopar.Plan.load(path)
        assert "\n" not in str(error.value)

    refused(autopar.StalePlanError, "a plan of version 99, this autopar reads", version=99)
    refused(ValueError, "does not say 'autopar plan'", format="something")
    refused(ValueError, "is no plan: ops is missing", ops=None)
    refused(ValueError, r"ops\[0\].types is missing", ops=[{"op": "x"}])
    refused(ValueError, "options: method=dq is unknown", options={"method": "dq"})
    refused(ValueError, "opts is unknown; known: method, options, grid", opts=[])
    refused(autopar.StalePlanError, "a plan of version True, this autopar", version=True)
    first, *rest = good["arguments"]
    rank = len(first["shape"])
    elsewhere = {**first, "dims": [["zz"], *[[]] * (rank - 1)]}
    refused(ValueError, r"arguments\[0\].dims: .* no axis 'zz'", arguments=[elsewhere, *rest])
    flat = {**first, "dims": [*first["dims"], []]}
    refused(
        ValueError, rf"\[0\].dims: expected {rank}, .* found {rank + 1}", arguments=[flat, *rest]
    )
    op = {**good["ops"][0], "strategy": ""}
    refused(ValueError, r"ops\[0\].strategy: ", ops=[op, *good["ops"][1:]])
    path.write_text('{"a":' * 5000)
    with pytest.raises(ValueError, match="is no plan"):
        autopar.Plan.load(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="is no plan: Expecting"):
        autopar.Plan.load(path)
    with pytest.raises(FileNotFoundError):
        autopar.Plan.load(tmp_path / "nothing.json")


WRONG_FIELDS: list[tuple[str, Any, str]] = [
    ("method", "dq", "'dq' is unknown"),
    ("options", None, "expected an object, found null"),
    ("grid", None, "expected an object, found null"),
    ("grid", {"x": "2"}, 'expected a whole number, found "2"'),
    ("grid", {}, "expected axes of at least one device"),
    ("grid", {"x": 0}, "expected axes of at least one device"),
    ("num_micro_batches", 0, "=0: expected a whole number of at least 1"),
    ("num_micro_batches", True, "expected a whole number, found true"),
    ("reduction", "max", "'max': expected 'mean' or 'sum'"),
    ("flops", 1.5, "expected a whole number, found 1.5"),
    ("searched", 1, "expected true or false, found 1"),
    ("inputs", "tensor", 'expected a list, found "tensor"'),
    ("demands", [1], "expected text, found 1"),
    ("argument_shardings", [], "expected 5, one for each argument, found 0"),
    ("argument_shardings", [7], "expected text, found 7"),
    ("argument_shardings", ["[{"] * 5, "no sharding in '#autopar.sharding<[{>'"),
    ("argument_shardings", ['@mesh, [{"z"}]'] * 5, "the grid has no axis 'z'"),
    ("flops", -1, "flops, result_bytes: expected numbers of at least 0"),
    ("collectives", {}, "expected a list, found {}"),
    ("ops", [7], "expected an object, found 7"),
    ("program", "abc", "expected 64 hexadecimal digits, found 'abc'"),
    ("inputs", ["tensor<f32>"] * 4, "expected 5, one for each argument, found 4"),
    ("demands", [], "expected 9, one for each argument and result, found 0"),
]


@pytest.mark.parametrize("field", ["free_early", "modelled", "collectives", "inputs"])
def test_a_missing_field_is_named(field: str, saved_plan: Any, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({k: v for k, v in saved_plan.items() if k != field}))
    with pytest.raises(ValueError, match=f"is no plan: {field} is missing"):
        autopar.Plan.load(path)


@pytest.fixture(scope="module")
def saved_plan(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("plans") / "plan.json"
    autopar.plan(train, params(), batch(), mesh=mesh(), method="dp").save(path)
    return json.loads(path.read_text())


@pytest.mark.parametrize(("field", "value", "message"), WRONG_FIELDS)
def test_a_wrong_field_is_named(
    field: str, value: Any, message: str, saved_plan: Any, tmp_path: Path
) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({**saved_plan, field: value}))
    with pytest.raises(ValueError) as error:
        autopar.Plan.load(path)
    text = str(error.value)
    assert text.startswith(f"{path} is no plan: ") and field in text and text.endswith(message)


@pytest.mark.parametrize("value", [None, 7, [1], {"a": []}, "x"])
def test_damaged_files_are_refused_when_they_are_read(
    value: Any, saved_plan: Any, tmp_path: Path
) -> None:
    path = tmp_path / "plan.json"
    for field in saved_plan:
        path.write_text(json.dumps({**saved_plan, field: value}))
        try:
            autopar.Plan.load(path)
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)
        else:  # of the field's type
            is_absent = value is None and field == "modelled"
            assert is_absent or isinstance(value, type(saved_plan[field]))


def test_a_plan_that_lacks_an_operation() -> None:
    plan = autopar.plan(train, params(), batch(), mesh=mesh())
    assert plan.decisions is not None
    fewer = replace(plan, decisions=replace(plan.decisions, ops=plan.decisions.ops[:-1]))
    with pytest.raises(autopar.StalePlanError, match=r"the program has \d+ operations to decide"):
        autopar.parallelize(train, method=fewer)(params(), batch())
