"""The ways to use autopar from elsewhere, as docs/embedding.md has them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
shard.grid @grid(shape = 2x4)
func.func @main(%a: tensor<8x16xf32>, %b: tensor<16x4xf32>) -> tensor<8x4xf32> {
  %s = shard.sharding @grid split_axes = [[0], [1]] : !shard.sharding
  %a1 = shard.shard %a to %s annotate_for_users : tensor<8x16xf32>
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<8x4xf32>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<8x4xf32>) -> tensor<8x4xf32>
  %0 = linalg.matmul ins(%a1, %b : tensor<8x16xf32>, tensor<16x4xf32>)
      outs(%f : tensor<8x4xf32>) -> tensor<8x4xf32>
  return %0 : tensor<8x4xf32>
}
"""
needs_mlir_opt = pytest.mark.skipif(
    shutil.which("mlir-opt-22") is None, reason="mlir-opt-22 is not installed (mlir-22-tools)"
)


def run(command: list[str], text: str = "", **variables: str) -> str:
    """Standard output of a command; the paths of this checkout and interpreter come first."""
    scripts = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(scripts), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
        **variables,
    }
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, timeout=120, check=False,
        env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def autopar_opt(text: str, *arguments: str) -> str:
    return run([sys.executable, "-m", "autopar.opt", "-", *arguments], text)


def test_in_another_xdsl_pipeline() -> None:
    """Another compiler's own context and pass pipeline, without JAX."""
    code = """
import sys
from xdsl.context import Context
from xdsl.parser import Parser
from xdsl.passes import PassPipeline
from xdsl.transforms.canonicalize import CanonicalizePass

from autopar.dialects import all_dialects
from autopar.passes import load_pass

context = Context()
for name, factory in all_dialects().items():
    context.register_dialect(name, factory)
module = Parser(context, sys.stdin.read()).parse_module()
pipeline = PassPipeline(
    (
        CanonicalizePass(),
        load_pass("sharding-propagation")(),
        load_pass("shard-partition")(),
    )
)
pipeline.apply(context, module)
module.verify()
print(module)
assert not {"jax", "jaxlib", "ray"} & set(sys.modules)
"""
    output = run([sys.executable, "-c", code], PROGRAM)
    assert output.count("shard.all_reduce") == 1
    assert "tensor<4x4xf32>, tensor<4x4xf32>) outs" in output


# ---- xdsl-opt ------------------------------------------------------------------------------------


def plug_in(folder: Path, name: str, target: str) -> None:
    """An installed distribution that has an entry point for xDSL, on PYTHONPATH."""
    info = folder / f"{name}_plugin-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[xdsl.universe]\n{name} = {target}\n")


def installed() -> bool:
    """Whether autopar's own entry point is there (pip install -e .)."""
    from importlib.metadata import entry_points

    return any(entry.name == "autopar" for entry in entry_points(group="xdsl.universe"))


@pytest.mark.parametrize("beside_xdsl_jax", [False, True])
def test_xdsl_opt(beside_xdsl_jax: bool, tmp_path: Path) -> None:
    """xdsl-opt runs our passes by the entry point, also where another plug-in has stablehlo."""
    if not installed():
        plug_in(tmp_path, "autopar", "autopar.universe:AUTOPAR_UNIVERSE")
    if beside_xdsl_jax:
        plug_in(tmp_path, "xdsl_jax", "other_plug_in:UNIVERSE")
        (tmp_path / "other_plug_in.py").write_text(
            "from xdsl.ir import Dialect\n"
            "from xdsl.universe import Universe\n"
            "UNIVERSE = Universe(all_dialects={'stablehlo': lambda: Dialect('stablehlo')})\n"
        )
    path = os.pathsep.join([str(ROOT), str(tmp_path)])
    command = [
        "xdsl-opt", "-p", "convert-mesh-to-shard,sharding-propagation,shard-partition",
    ]  # fmt: skip
    output = run(command, PROGRAM, PYTHONPATH=path)
    assert output.count("shard.all_reduce") == 1


# ---- mlir-opt ------------------------------------------------------------------------------------


@needs_mlir_opt
def test_pipe_from_mlir_opt() -> None:
    """mlir-opt's output is our input."""
    text = run(["mlir-opt-22", "--cse", "--canonicalize"], PROGRAM)
    output = autopar_opt(text, "--sharding-propagation", "--shard-partition")
    assert output.count("shard.all_reduce") == 1


@needs_mlir_opt
def test_pipe_to_mlir_opt() -> None:
    """Our output is mlir-opt's input: as it is, or in generic form where it holds StableHLO."""
    text = (
        "mesh.mesh @mesh(shape = 2x4)\n"
        "func.func @main(%a: tensor<8x16xf32>) -> tensor<8x16xf32> {\n"
        "  %0 = mesh.shard %a to <@mesh, [[0], [1]]> annotate_for_users : tensor<8x16xf32>\n"
        "  return %0 : tensor<8x16xf32>\n"
        "}\n"
    )
    output = run(["mlir-opt-22", "--canonicalize"], autopar_opt(text, "--convert-mesh-to-shard"))
    assert "shard.shard %arg0 to" in output
    passes = ("--sharding-propagation", "--shard-partition", "--mlir-print-op-generic")
    local = autopar_opt(PROGRAM, *passes)
    command = ["mlir-opt-22", "-allow-unregistered-dialect", "--linalg-generalize-named-ops"]
    output = run(command, local)
    assert "linalg.generic" in output and output.count("shard.all_reduce") == 1


# ---- jaxlib --------------------------------------------------------------------------------------


def test_apply_on_jaxlib_modules() -> None:
    """A module in memory goes in, a module of the same kind comes out."""
    import jax
    import jax.numpy as jnp

    import autopar

    def f(x: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.tanh(x @ w)

    lowered = jax.jit(f).lower(jnp.ones((8, 16)), jnp.ones((16, 4)))
    module = lowered.compiler_ir("stablehlo")
    pipeline = "annotate-method{method=dp grid=4},sharding-propagation,shard-partition"
    result = autopar.apply(module, f"{pipeline},convert-shard-to-stablehlo")
    text = str(result)
    assert "mhlo.num_replicas = 4 : i32" in text and "autopar.layout" in text
    assert "stablehlo.tanh" in str(module)  # the module given is not touched


# ---- lit -----------------------------------------------------------------------------------------


def test_lit_configuration_of_another_project(tmp_path: Path) -> None:
    """Three lines of lit.cfg.py; autopar-opt and filecheck are those of the interpreter."""
    (tmp_path / "lit.cfg.py").write_text(
        "from autopar.lit import configure\nconfigure(config, __file__, name='my-project')\n"
    )
    (tmp_path / "test.mlir").write_text(
        "// RUN: autopar-opt %s --sharding-propagation --shard-partition | filecheck %s\n"
        "// REQUIRES: jaxlib\n"
        "// CHECK: shard.all_reduce\n" + PROGRAM
    )
    output = run(["lit", "-a", str(tmp_path)])
    assert "PASS: my-project :: test.mlir" in output
