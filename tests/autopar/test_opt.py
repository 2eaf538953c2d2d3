"""autopar-opt from inside: pipelines, options, expected diagnostics, embedding."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.export
import jax.numpy as jnp
import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from autopar.embed import apply
from autopar.lowering.parse import parse_module
from autopar.lowering.print import print_module
from autopar.opt import main
from autopar.passes import PASSES, load_pass
from autopar.passes.importing.methods import METHODS
from autopar.passes.manager import PipelineError, build_pipeline, parse_pipeline
from autopar.verify_diagnostics import read_expectations

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class ProbePass(ModulePass):
    """Holds an option of every kind."""

    name = "probe"

    grid: tuple[int, ...] = ()
    alpha: tuple[float, ...] = ()
    names: tuple[str, ...] | None = None
    report: str | None = None
    count: int = 3
    scale: float = 1.0
    flag: bool = False
    kind: Literal["a", "b"] = "a"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        if self.flag:
            raise TypeError("the probe\nfails")


@pytest.fixture(autouse=True)
def probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PASSES, "probe", f"{__name__}:ProbePass")
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])


OPTIONS = (
    "grid=2x4 alpha=1e-6,2.5e-6 names=data,model report=/tmp/a/b-1.json count=1e3 scale=2e-3 kind=b"
)


def test_options_by_every_spelling() -> None:
    expected = ProbePass(
        (2, 4), (1e-6, 2.5e-6), ("data", "model"), "/tmp/a/b-1.json", 1000, 2e-3, False, "b"
    )
    for text in (
        f"probe{{{OPTIONS}}}",
        f"builtin.module(probe{{{OPTIONS}}})",
        f"builtin.module(func.func(probe{{{OPTIONS}}}))",
        'probe{grid=2,4 alpha="1e-6,2.5e-6" names="data,model" report="/tmp/a/b-1.json" '
        "count=1000 scale=0.002 kind=b flag=false}",
    ):
        assert build_pipeline(text) == [expected], text
    assert build_pipeline("probe{flag}") == [ProbePass(flag=True)]
    assert str(parse_pipeline("probe{a=1 b},cse")[0]) == "probe{a=1 b}"


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        ("prob", "unknown pass 'prob'; did you mean 'probe'"),
        ("probe{gird=1}", "no option 'gird'; did you mean 'grid'"),
        (
            "probe{count=1.5}",
            "option 'count' of pass 'probe': expected a whole number, found '1.5'",
        ),
        ("probe{count=x}", "option 'count' of pass 'probe': expected a whole number, found 'x'"),
        ("probe{scale=x}", "option 'scale' of pass 'probe': expected a number, found 'x'"),
        ("", "the pipeline is empty: give names of passes"),
        ("cse,,dce", "a name is missing beside a comma of the pipeline 'cse,,dce'"),
        ("builtin.module(cse,)", "a name is missing beside a comma of the pipeline 'cse,'"),
        ("split-step{num-micro-batches=0}", "num-micro-batches=0: expected at least 1"),
        ("split-step{reduction=max}", "expected one of mean, sum, found 'max'"),
        ("annotate-method{method=ddp}", f"expected one of {', '.join(METHODS)}, found"),
        ("annotate-method{small-tensor-elements=-1}", "expected a whole number of at least 0"),
        ("optimize-collectives{small-bytes=-1}", "small-bytes=-1: expected bytes, at least 0"),
        ("shard-partition{grid=2xq}", "grid=2xq: expected sizes joined by x, as in grid=2x4"),
        ("shard-partition{grid=2x}", "grid=2x: expected sizes joined by x, as in grid=2x4"),
        ("shard-partition{grid=1_0x4}", "grid=1_0x4: expected sizes joined by x, as in grid=2x4"),
        ("shard-partition{grid=0x4}", "grid=0x4: an axis has at least one device, not 0"),
        ("auto-shard{grid=2x4 axis-names=a,}", "axis-names=a,: the name of axis 1 is empty"),
        ("auto-shard{grid=2x4 axis-names=,}", "axis-names=,: the name of axis 0 is empty"),
        ("auto-shard{grid=2x4 axis-names=a}", "grid=2x4 has 2 axes, axis-names=a names 1"),
        ("auto-shard{grid=2x4 axis-names=a,a}", "axis-names=a,a: a name is used twice"),
        (
            "auto-shard{grid=2x4 axis-names=a:(1)2,b}",
            r"axis-names=a:\(1\)2,b: a:\(1\)2 is how a part of an axis is spelled",
        ),
        ("shard-partition{axis-names=a,b}", "axis-names=a,b without grid=: give both"),
        ("shard-partition{grid}", "option 'grid' of pass 'shard-partition' needs a value: grid=…"),
        ("probe{flag=maybe}", "expected true or false, found 'maybe'"),
        ("probe{kind=c}", "expected one of a, b, found 'c'"),
        ("probe{count=1 count=2}", "given twice"),
        ("probe{count=1", "missing '}'"),
        ("some.op(cse)", "expected builtin.module"),
    ],
)
def test_wrong_pipelines(pipeline: str, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        build_pipeline(pipeline)


def test_errors_of_a_module_are_at_its_first_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.mlir"
    file.write_text("func.func @f() {\n  return\n}\n")
    assert main([str(file), "--shard-partition"]) == 1
    assert f"{file}:1:1: error: partitioning needs a device grid" in capsys.readouterr()[1]


def test_unforeseen_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.mlir"
    file.write_text("func.func @f() {\n  return\n}\n")
    assert main([str(file), "--probe=flag"]) == 1
    output, errors = capsys.readouterr()
    assert not output and "Traceback" not in errors
    assert "error: pass 'probe': internal error: TypeError: the probe" in errors


def opt(arguments: str) -> subprocess.CompletedProcess[str]:
    """autopar-opt in a shell, which redirects its streams."""
    command = f"{sys.executable} -m autopar.opt {arguments}"
    return subprocess.run(["sh", "-c", command], text=True, capture_output=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("a.mlir > /dev/full", "cannot write -: No space left on device"),
        ("--help > /dev/full", "cannot write -: No space left on device"),
        ("- <&-", "cannot read -: standard input is closed"),
        ("a.mlir >&-", "cannot write -: standard output is closed"),
        ("bad.bin", "bad.bin: no text in UTF-8 (byte 0xff in line 2)"),
        ("bad.mlirbc", "bad.mlirbc: jaxlib refuses this bytecode"),
    ],
)
def test_streams_and_files_that_fail(arguments: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.mlir").write_text("func.func private @f()\n")
    (tmp_path / "bad.bin").write_bytes(b"module\n\xff")
    (tmp_path / "bad.mlirbc").write_bytes(b"ML\xefR????")
    for name in ("a.mlir", "bad.bin", "bad.mlirbc"):
        arguments = arguments.replace(name, str(tmp_path / name), 1)
    done = opt(arguments)
    assert done.returncode == 1 and message in done.stderr
    assert done.stderr.count("\n") == 1 and not done.stdout


def test_an_output_stays_where_the_disk_is_full(tmp_path: Path) -> None:
    text = "".join(f"func.func private @f{i}()\n" for i in range(1000))
    (tmp_path / "a.mlir").write_text(text)
    (tmp_path / "b.mlir").write_text("old")
    program = f"{sys.executable} -B -m autopar.opt {tmp_path}/a.mlir -o {tmp_path}/b.mlir"
    command = ["sh", "-c", f"ulimit -f 1; {program}"]
    done = subprocess.run(command, text=True, capture_output=True, cwd=ROOT, check=False)
    assert done.returncode == 1 and "b.mlir: File too large" in done.stderr
    assert (tmp_path / "b.mlir").read_text() == "old"


def test_out_of_memory(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def exhaust(*arguments: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr("autopar.opt.read_input", exhaust)
    assert main(["a.mlir"]) == 1
    assert capsys.readouterr() == ("", "autopar-opt: error: out of memory\n")


def test_bytecode(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ones: Any = jnp.ones(4)
    function: Any = jax.jit(jnp.sin)
    bytecode = tmp_path / "a.mlirbc"
    native: Any = function.lower(ones).compiler_ir("stablehlo")
    native.operation.write_bytecode(str(bytecode))
    assert main([str(bytecode)]) == 0
    assert "stablehlo.sine" in capsys.readouterr()[0]
    bytecode.write_bytes(jax.export.export(function)(ones).mlir_module_serialized)
    assert main([str(bytecode)]) == 0
    assert "stablehlo.sine" in capsys.readouterr()[0]


def test_expectations() -> None:
    text = (
        "// expected-error@+2 {{a {b} c}}\n"
        "// expected-remark@below 2 {{x}}\n"
        "// expected-error-re@above {{n {{[0-9]+}} m}}"
    )
    found = [(e.severity, e.line, e.pattern) for e in read_expectations(text)]
    assert found[0] == ("error", 3, r"a\ \{b\}\ c")
    assert found[1:3] == [("remark", 4, "x")] * 2
    assert found[3][2] == r"n\ [0-9]+\ m"


def test_apply_on_jaxlib_modules() -> None:
    native = jax.jit(lambda x: jnp.sin(x) + jnp.sin(x)).lower(1.0).compiler_ir()
    result: Any = apply(native, "cse")
    assert str(result).count("stablehlo.sine") == 1
    with pytest.raises(PipelineError):
        apply(native, "no-such-pass")
    with pytest.raises(TypeError, match=r"apply expects a module in memory, got str: give .*"):
        apply("func.func @f()", "cse")


def test_without_jaxlib() -> None:
    """Generic StableHLO and our own custom forms need no jaxlib."""
    text = (
        "shard.grid @mesh(shape = 2x4)\nfunc.func @f(%a: tensor<4xf32>) -> tensor<4xf32> {\n"
        '  %0 = "stablehlo.tanh"(%a) : (tensor<4xf32>) -> tensor<4xf32>\n'
        "  return %0 : tensor<4xf32>\n}\n"
    )
    module = parse_module(text, use_jaxlib=False)
    again = parse_module(print_module(module, use_jaxlib=False), use_jaxlib=False)
    assert print_module(again) == print_module(parse_module(text))


def test_passes_are_light() -> None:
    """Importing the passes or parsing text pulls in neither JAX nor Ray."""
    code = (
        "import sys, autopar.passes, autopar.passes.manager, autopar.opt; "
        "from autopar.lowering.parse import parse_module; parse_module('func.func private @f()'); "
        "assert not {'jax', 'ray'} & set(sys.modules), 'JAX or Ray was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


def test_unknown_passes_are_told_with_the_nearest_name() -> None:
    with pytest.raises(PipelineError, match=r"unknown pass 'shard-partion'; did you mean 'shard-p"):
        load_pass("shard-partion")


@pytest.mark.parametrize("name", sorted(PASSES))
def test_every_pass_says_what_it_does(name: str) -> None:
    cls = load_pass(name)
    assert cls.name == name
    assert (cls.__doc__ or "").strip().partition("\n")[0].endswith("."), name


def test_a_pipeline_is_a_text() -> None:
    for pipeline in (["inline"], None):
        with pytest.raises(TypeError, match="apply expects a pipeline text"):
            apply(parse_module("func.func private @f()"), pipeline)  # pyright: ignore


def test_options_are_shown_as_one_writes_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list-passes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "      zero: 0|2|3  Split over" in "\n".join(lines)
    assert any(line.startswith("      allow-all-gather: true|false = true  ") for line in lines)
    assert any(line.startswith("      names: text,…") for line in lines)
    assert not any("tuple[" in line or "Literal" in line for line in lines)
