"""`autopar view` and `Plan.view`: what a page says, and that a real browser shows it."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType

import autopar
from autopar.cli import main
from autopar.view.page import page
from autopar.view.plain import report_data
from tests.autopar.browser import NAMES, Browser, browser, find_browser

LAYERS = 6
OPTIONS = "grid=2x4 cluster=8xv100"


def step(params: Any, batch: Any) -> Any:
    def loss(params: Any) -> Any:
        hidden = batch
        for index, layer in enumerate(params):
            with jax.named_scope(f"layer_{index}"):
                hidden = jnp.tanh(hidden @ layer["up"]) @ layer["down"]
        return jnp.mean((hidden - batch) ** 2)

    grads = jax.grad(loss)(params)
    return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)


def arguments() -> Any:
    def shaped(*shape: int) -> Any:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    layer = {"up": shaped(512, 2048), "down": shaped(2048, 512)}
    return [layer] * LAYERS, shaped(4096, 512)


@cache
def text() -> str:
    lowered = jax.jit(step, donate_argnums=0).lower(*arguments())
    return lowered.compiler_ir("stablehlo").operation.get_asm(enable_debug_info=True)


def data_of(path: Path) -> dict[str, Any]:
    """What a page shows."""
    written = path.read_text(encoding="utf-8")
    _, _, rest = written.partition('<script type="application/json" id="data">')
    return json.loads(rest.partition("</script>")[0])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a module, and the report of the same plan beside it."""
    folder = tmp_path_factory.mktemp("view")
    module, path = folder / "step.mlir", folder / "plan.html"
    module.write_text(text())
    options = f"{OPTIONS} report={folder / 'report.json'}"
    assert main(["view", str(module), "-o", str(path), "--auto-shard", options]) == 0
    return path


# ---- what it says --------------------------------------------------------------------------------


def layers(group: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for item in group["i"]:
        if isinstance(item, dict):
            yield item
            yield from layers(item)


def test_layers_that_are_alike_are_told_once(made: Path) -> None:
    tree = data_of(made)["program"]["tree"]
    folded = [group["n"] for group in layers(tree) if len(group["n"]) > 1]
    inner = list(range(1, LAYERS - 1))  # the first and the last are not quite as these
    held = [{int(re.sub(r"\D", "", name)) for name in names} for names in folded]
    assert any(set(inner) <= numbers for numbers in held), folded


def test_the_layers_take_the_time_of_the_step(made: Path) -> None:
    data = data_of(made)
    assert data["program"]["tree"]["s"] == pytest.approx(1e6 * data["objective"]["total"], rel=1e-3)


def test_collectives_belong_to_ops(made: Path) -> None:
    data = data_of(made)

    def moved(group: dict[str, Any]) -> float:
        own = sum(
            item[6] * sum(size for _, size in item[7]) if isinstance(item, list)
            else len(item["n"]) * moved(item)
            for item in group["i"]
        )  # fmt: skip
        return float(own)

    total = sum(use["bytes"] for use in data["collectives"])
    assert total > 0
    assert moved(data["program"]["tree"]) == pytest.approx(total, rel=1e-3)
    for use in data["collectives"]:
        assert sum(count for _, count, _ in use["places"]) == use["count"]


def test_memory_is_that_of_the_cost_model(made: Path) -> None:
    memory = data_of(made)["memory"]
    most = max(size for _, size, _ in memory["points"])
    assert most == memory["temporaries"]
    assert memory["arguments"] + memory["results"] + most == memory["peak"] <= memory["limit"]
    assert sum(size for *_, size in memory["largest"]) <= memory["temporaries"]


def test_arguments(made: Path) -> None:
    data = data_of(made)
    rows = {row[0][0]: row for row in data["arguments"]}
    assert sum(len(row[0]) for row in data["arguments"]) == 2 * LAYERS + 1
    names, kind, type_, _, _ = rows["params[0]['up']"]
    assert (kind, type_) == ("parameter", "tensor<512x2048xf32>")
    assert names[:2] == ["params[0]['up']", "params[1]['up']"]


def test_the_same_page_each_time(made: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.html"
    source = str(made.parent / "step.mlir")
    assert main(["view", source, "-o", str(again), "--auto-shard", OPTIONS, "-q"]) == 0

    def facts(path: Path) -> dict[str, Any]:
        return {k: v for k, v in data_of(path).items() if k not in ("solver", "method")}

    assert facts(again) == facts(made)


def test_whatever_a_text_holds_stays_text() -> None:
    evil = "</script><script>alert(1)</script>{{SCRIPT}}<!--"
    report = {
        "grid": {"x": 2},
        "objective": {"total_s": 1.0, "compute_s": 1.0, "memory_s": 0.0, "communication_s": 0.0,
                      "reshard_s": 0.0},
        "memory": {"peak_bytes": 1, "arguments_bytes": 1, "results_bytes": 0,
                   "temporaries_bytes": 0, "limit_bytes": None},
        "collectives": [],
        "solver": {"gap": 0.0, "optimal": True, "reproducible": True, "nodes": 1, "edges": 0,
                   "seconds": 0.0},
        "arguments": [{"index": 0, "kind": evil, "type": "f32", "sharding": None}],
    }  # fmt: skip
    written = page(report_data(report, evil))
    assert "alert(1)</script>" not in written
    assert "<title>&lt;/script&gt;" in written
    assert written.count("<script") == 2
    assert "http" not in written.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")


def test_from_python_and_from_a_file(tmp_path: Path) -> None:
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    plan = autopar.parallelize(step, method="auto", mesh=mesh).lower(*arguments()).plan
    plan.view(tmp_path / "plan.html", "my plan")
    data = data_of(tmp_path / "plan.html")
    assert (data["title"], data["method"]) == ("my plan", "method auto")
    assert [use["bytes"] for use in data["collectives"]]
    assert sum(use["bytes"] for use in data["collectives"]) == pytest.approx(
        plan.collective_bytes, rel=1e-6
    )
    plan.save(tmp_path / "plan.json")
    saved = tmp_path / "saved.html"
    assert main(["view", str(tmp_path / "plan.json"), "-o", str(saved)]) == 0
    told = data_of(saved)
    assert [row[:2] for row in told["arguments"]] == [row[:2] for row in data["arguments"]]
    assert told["program"]["tree"]["i"]


def test_an_annotated_module_without_a_search(tmp_path: Path) -> None:
    module = tmp_path / "annotated.mlir"
    module.write_text("""
sdy.mesh @mesh = <["x"=8]>
func.func public @main(%x: tensor<64x32xf32> {sdy.sharding = #sdy.sharding<@mesh, [{}, {"x"}]>},
                       %w: tensor<32x16xf32>) -> tensor<64x16xf32> {
  %0 = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0]
    : (tensor<64x32xf32>, tensor<32x16xf32>) -> tensor<64x16xf32>
  return %0 : tensor<64x16xf32>
}""")
    path = tmp_path / "plan.html"
    assert main(["view", str(module), "-o", str(path)]) == 0
    data = data_of(path)
    assert data["solver"] is None
    assert [(use["kind"], use["axes"]) for use in data["collectives"]] == [("all_reduce", "x")]


def test_a_module_without_a_grid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = tmp_path / "step.mlir"
    module.write_text("func.func @main(%x: tensor<f32>) -> tensor<f32> { return %x : tensor<f32> }")
    assert main(["view", str(module), "-o", str(tmp_path / "plan.html")]) == 1
    assert capsys.readouterr().err == (
        f"{module}:1:1: error: the page of a plan needs a device grid, and the module declares "
        'none: give --auto-shard="grid=2x4" or a shard.grid (sdy.mesh) in the module\n'
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", "{", "neither a module nor JSON"),
        ("x.json", "{}", "neither a plan (autopar plan, Plan.save) nor a report"),
        ("x.json", '{"format": "other"}', "is no plan"),
        ("x.mlir", "func.func @main() {", "error"),
        ("x.mlir", "module {}", "@main"),
    ],
)
def test_errors_are_one_line(
    name: str, content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(content)
    output = tmp_path / "plan.html"
    source = str(tmp_path / name)
    options = ["--auto-shard", OPTIONS] if name.endswith(".mlir") else []
    assert main(["view", source, "-o", str(output), *options]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not output.exists()


# ---- in a browser --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shown(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_browser()
    if program is None:
        pytest.skip(f"no browser is installed: none of {', '.join(NAMES)}")
    with browser(program, tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture
def opened(shown: Browser, made: Path) -> Iterator[Browser]:
    """The page, freshly opened; nothing may be complained of, and nothing loaded from elsewhere."""
    shown.problems.clear()
    shown.requests.clear()
    shown.open(made)
    yield shown
    assert shown.problems == []
    assert set(shown.requests) == {made.resolve().as_uri()}


def type_into_search(one: Browser, text: str) -> str:
    one.run("document.getElementById('search').select()")
    one.send("Input.insertText", text=text)
    words = json.dumps(text.lower().split())
    one.wait(f"JSON.stringify(view.words) === JSON.stringify({words})")
    return one.run("document.getElementById('found').textContent")


def texts(one: Browser, selector: str) -> list[str]:
    return one.run(f"[...document.querySelectorAll({selector!r})].map((e) => e.innerText)")


def test_the_page_opens(opened: Browser) -> None:
    assert texts(opened, "h2") == [
        "Plan", "Memory of a device over a step", "Collectives", "Arguments and results", "Program"
    ]  # fmt: skip
    assert texts(opened, "dt") == ["a step", "grid", "memory of a device", "limit"]
    assert opened.run("document.querySelectorAll('#tree > details.layer').length") > 1
    assert opened.run("getComputedStyle(document.body).backgroundColor") == "rgb(246, 247, 249)"


def test_the_chart_is_read_by_the_keyboard(opened: Browser) -> None:
    path = opened.run("document.querySelector('#chart path.used').getAttribute('d')")
    assert path.count("L") > 20
    assert "limit 14.9 GiB" in opened.run(
        "document.querySelector('#chart').getAttribute('aria-label')"
    )
    before = texts(opened, "#reading")
    opened.run("document.getElementById('chart').focus()")
    for _ in range(5):
        opened.press("ArrowRight", code=39)
    assert texts(opened, "#reading") != before
    button = "document.querySelector('#memory button')"
    top = opened.run("document.querySelector('#chart .held').getAttribute('height')")
    opened.run(f"{button}.click()")
    assert opened.run("document.querySelector('#chart .held').getAttribute('height')") != top


@pytest.mark.parametrize("width", [1300, 900, 400])
def test_long_names_leave_the_columns_of_the_memory_in_sight(opened: Browser, width: int) -> None:
    opened.send(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=900,
        deviceScaleFactor=1,
        mobile=False,
    )
    try:
        name = "dynamic_update_slice(transpose(jvp())/while/body)" * 3
        opened.run(f"document.querySelector('#memory td .mono').textContent = '{name}'")
        box = "document.querySelector('#memory .scroll')"
        assert opened.run(f"{box}.scrollWidth - {box}.clientWidth") == 0
    finally:
        opened.send("Emulation.clearDeviceMetricsOverride")


def test_layers_fold_and_unfold(opened: Browser) -> None:
    opened.run("document.getElementById('fold-all').click()")
    assert opened.run("document.querySelectorAll('#tree details[open]').length") == 0
    opened.run("document.getElementById('unfold-all').click()")
    rows = opened.run("document.querySelectorAll('#tree .row').length")
    assert rows > 10
    opened.run("document.querySelector('#tree .unfold').click()")
    names = texts(opened, "#tree summary .name")
    assert {f"jvp(layer_{index})" for index in range(1, 4)} <= set(names)
    opened.run("document.getElementById('fold-all').click()")
    opened.run("document.querySelector('#tree summary').focus()")
    opened.press("Enter", "\r", 13)
    assert opened.run("document.querySelectorAll('#tree details[open]').length") == 1


def test_search_filters(opened: Browser) -> None:
    opened.press("/", "/", 191)
    assert opened.run("document.activeElement.id") == "search"
    assert type_into_search(opened, "dot_general layer_3").endswith(" ops")
    kinds = texts(opened, "#tree .row .op")
    assert kinds and set(kinds) == {"dot_general"}
    assert opened.run("document.getElementById('summary').hidden")
    line = next(
        i for i, row in enumerate(Path(__file__).read_text().splitlines(), 1) if "tanh(" in row
    )
    type_into_search(opened, f"test_view.py:{line} tanh")
    assert {kind.partition("\n")[0] for kind in texts(opened, "#tree .row .op")} == {"tanh"}
    type_into_search(opened, "all_reduce")
    assert set(texts(opened, "#collectives td:first-child")) == {"all_reduce", ""} - {""}
    type_into_search(opened, "['up']")
    assert opened.run("document.querySelectorAll('#arguments tbody tr:not([hidden])').length") >= 1
    assert type_into_search(opened, "nothing at all").startswith("0 of ")
    assert texts(opened, "#tree") == ["No op matches."]
    opened.press("Escape", code=27)
    assert opened.run("document.getElementById('summary').hidden") is False


def test_dark_where_the_reader_wants_it(opened: Browser, made: Path) -> None:
    opened.open(made, dark=True, width=480)
    assert opened.run("getComputedStyle(document.body).backgroundColor") == "rgb(17, 21, 28)"
    assert opened.run("document.documentElement.scrollWidth <= window.innerWidth")
