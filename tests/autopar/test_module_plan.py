"""`autopar plan`: a module's plan as a table and as a file."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import autopar
from autopar import opt
from autopar.cli import main
from autopar.lowering.mlir_context import merge_equal_ops
from autopar.plans import Plan

from .test_explain import GRID, step


def arguments() -> Any:
    def shaped(*shape: int) -> Any:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    return {"up": shaped(256, 512), "down": shaped(512, 256)}, shaped(64, 256)


@pytest.fixture
def module(tmp_path: Path) -> str:
    path = tmp_path / "step.mlir"
    lowered = jax.jit(step, donate_argnums=0).lower(*arguments())
    path.write_text(lowered.as_text(debug_info=True))
    return str(path)


def plan(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main(["plan", *words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_the_table(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = plan(
        capsys,
        module,
        "--auto-shard",
        "grid=2x4 cluster=8xv100 batch-axis=x memory-per-device=16GiB",
    )
    assert (status, err) == (0, "")
    head, *rows = out.splitlines()
    assert head == "arguments on the grid x=2, y=4"
    assert [row.split()[:2] for row in rows[:3]] == [
        ["params['down']", "parameter"],
        ["params['up']", "parameter"],
        ["batch", "batch"],
    ]
    assert rows[3].startswith("step ") and "(resharding " in rows[3]
    assert rows[4].startswith("memory ") and rows[4].endswith(" a device of 16 GiB")
    assert any("sent by each device" in row for row in rows[5:-1])
    assert rows[-1].startswith("optimal; searched for ")


def test_what_is_not_modelled_has_no_time(
    module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "grid=2x4 batch-axis=x zero=3 objective=communication"
    path, page = tmp_path / "plan.json", tmp_path / "plan.html"
    status, out, _ = plan(capsys, module, "--auto-shard", words, "-o", str(path))
    assert status == 0
    time, memory, sent, *rows = out.splitlines()[4:]
    assert time.startswith("communication ") and " 0 ms (" not in time
    assert time.endswith("; compute and memory traffic are not modelled")
    assert memory.startswith("memory ")
    assert sent.endswith(" sent by each device in all") and not sent.startswith("0 ")
    assert any(" times, " in row for row in rows)
    assert "; compute and memory traffic are not modelled" in str(Plan.load(path))
    assert main(["view", module, "-o", str(page), "--auto-shard", words, "-q"]) == 0
    _, out, _ = plan(capsys, module, "--auto-shard", words, "--json")
    objective = json.loads(out)["objective"]
    assert objective["compute_s"] is None and objective["memory_s"] is None
    assert objective["total_s"] == objective["communication_s"] > 0


def test_the_report_is_that_of_the_pass(
    module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = plan(capsys, module, "--auto-shard", GRID, "--json")
    assert status == 0
    report = tmp_path / "report.json"
    passes = ["--import-sdy", "--inline", "--dce", "--cse", f"--auto-shard={GRID} report={report}"]
    assert opt.main([module, *passes, "-o", str(tmp_path / "out.mlir")]) == 0
    told, written = json.loads(out), json.loads(report.read_text())
    for one in (told, written):
        del one["solver"]["seconds"], one["solver"]["seconds_of"]
    assert told == written


def test_what_is_written_twice_is_counted_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def twice(a: Any, b: Any) -> Any:
        return a @ b + jnp.tanh(a @ b)

    def seconds(name: str, text: str) -> float:
        (tmp_path / name).write_text(text)
        words = "grid=2x4 cluster=8xv100"
        status, out, _ = plan(capsys, str(tmp_path / name), "--auto-shard", words, "--json")
        assert status == 0
        return json.loads(out)["objective"]["total_s"]

    lowered = jax.jit(twice).lower(jnp.ones((512, 512)), jnp.ones((512, 512)))
    text, merged = lowered.as_text(), lowered.compiler_ir("stablehlo")
    merge_equal_ops(merged)
    assert text.count("dot_general") == 2 and str(merged).count("dot_general") == 1
    assert seconds("twice.mlir", text) == seconds("once.mlir", str(merged))


def test_the_file_is_a_plan(
    module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plan.json"
    status, out, _ = plan(capsys, module, "--auto-shard", GRID, "-o", str(path), "--json")
    report, modelled = json.loads(out), Plan.load(path).modelled
    assert status == 0 and modelled is not None
    assert modelled.seconds.as_json() == report["objective"]
    assert modelled.peak_bytes == report["memory"]["peak_bytes"]
    assert modelled.limit_bytes == report["memory"]["limit_bytes"]
    assert main(["explain", str(path), "params['up']"]) == 0
    assert "decided by auto-shard" in capsys.readouterr().out
    assert main(["view", str(path), "-o", str(tmp_path / "plan.html")]) == 0


def test_jax_lays_a_program_out_by_the_file(
    module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plan.json"
    assert plan(capsys, module, "--auto-shard", GRID, "-o", str(path))[0] == 0
    found = Plan.load(path)
    jitted = jax.jit(step, in_shardings=found.shardings_of(*arguments()), donate_argnums=0)
    given = jitted.lower(*arguments()).compile().input_shardings[0]
    specs = [tuple(one.spec) for one in jax.tree.leaves(given)]
    assert [tuple(",".join(axes) or None for axes in value.dims) for value in found.arguments] == [
        spec + (None,) * (2 - len(spec)) for spec in specs
    ]


def test_a_saved_plan_of_parallelize_is_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The module of its own program, which is not that of jax.jit to the last constant."""
    options = {"cluster": "8xv100"}
    method = autopar.AutoShardParallel(options=options)
    lowered = autopar.parallelize(step, method=method, mesh=(2, 4), donate_argnums=0).lower(
        *arguments()
    )
    text, path = tmp_path / "own.mlir", tmp_path / "plan.json"
    text.write_text(lowered.jax_lowered.as_text(debug_info=True))
    axes = ",".join(name for name, _ in lowered.plan.grid.axes)
    words = f"grid=2x4 axis-names={axes} cluster=8xv100"
    assert plan(capsys, str(text), "--auto-shard", words, "-o", str(path))[0] == 0
    decisions = lowered.plan.decisions
    found = Plan.load(path).decisions
    assert decisions is not None and found is not None
    assert (found.program, found.inputs) == (decisions.program, decisions.inputs)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], 'give --auto-shard="grid=2x4"'),
        (["--auto-shard", "gird=2x4"], "gird"),
        (["--auto-shard", "grid=2x4 memory-per-device=1KiB"], "no plan found fits into 1 KiB"),
        (["--auto-shard", GRID, "-o", "nowhere/plan.json"], "there is no folder nowhere"),
    ],
)
def test_errors(
    words: list[str], message: str, module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = plan(capsys, module, *words)
    assert (status, out) == (1, "")
    assert message in err
    assert len([line for line in err.splitlines() if " error: " in line]) == 1


_OP_FORM = """shard.grid @g(shape = 2x4)
func.func @main(%a: tensor<8x16xf32>) -> tensor<8x16xf32> {
  %s = shard.sharding @g split_axes = [[0], [1]] : !shard.sharding
  %b = shard.shard %a to %s : tensor<8x16xf32>
  return %b : tensor<8x16xf32>
}
"""


def test_annotations_in_op_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They say where values lie: nothing is decided of them as of operations."""
    source, target = tmp_path / "step.mlir", tmp_path / "plan.json"
    source.write_text(_OP_FORM)
    status, out, err = plan(capsys, str(source), "-o", str(target))
    assert (status, err) == (0, "") and "[0, 1]" in out
    assert [op["op"] for op in json.loads(target.read_text())["ops"]] == ["func.return"]


def test_a_plan_is_no_module(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.json"
    path.write_text("{}")
    status, _, err = plan(capsys, str(path), "--auto-shard", GRID)
    assert status == 1
    assert err == f"autopar plan: error: {path} is no module: a plan is explained or viewed\n"


def test_a_module_on_standard_input_and_remarks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = jax.jit(step).lower(*arguments()).as_text()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    status, out, err = plan(capsys, "-", "--auto-shard", f"{GRID} zero=3", "--remarks")
    assert status == 0
    assert out.splitlines()[1].split()[:2] == ["arg0", "batch"]
    assert err.startswith("-:2:3: remark: auto-shard: zero: no argument is donated")


def test_progress_on_a_terminal(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("autopar.terminal.is_terminal", lambda stream: True)  # pyright: ignore
    monkeypatch.setattr("autopar.terminal._PATIENCE", -1.0)
    _, _, err = plan(capsys, module, "--auto-shard", GRID)
    assert "autopar plan: auto-shard: searching" in err
    _, out, err = plan(capsys, module, "--auto-shard", GRID, "--quiet")
    assert out.startswith("arguments on the grid") and err == ""


def test_a_quiet_plan_that_goes_to_a_file_is_not_printed(
    module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = module, "--auto-shard", GRID, "-q", "-o", str(tmp_path / "plan.json")
    assert plan(capsys, *words) == (0, "", "")
    _, out, _ = plan(capsys, *words, "--json")
    assert json.loads(out)["version"] == 1


UNRULED = """
func.func @main(%x: tensor<64x64xf32>) -> tensor<64x64xf32> {
  %0 = stablehlo.custom_call @mine(%x) : (tensor<64x64xf32>) -> tensor<64x64xf32>
  return %0 : tensor<64x64xf32>
}
"""


@pytest.mark.parametrize("words", [["plan"], ["explain", "--all"]])
def test_what_is_computed_whole_is_told(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "unruled.mlir"
    path.write_text(UNRULED)
    assert main([*words, str(path), "--auto-shard", GRID, "--remarks"]) == 0
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "no sharding rule" in line]
    assert said == (
        f"{path}:3:8: remark: auto-shard: custom_call @mine has no sharding rule: it is "
        "replicated on all 8 devices (16384 result bytes each); register_custom_call_rule gives "
        "it one"
    )
