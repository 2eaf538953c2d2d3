"""`autopar`: run with global arrays, env, errors of one line."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from autopar.cli import main
from autopar.embed import apply
from autopar.lowering.parse import parse_module
from autopar.lowering.print import print_module
from autopar.run import file_dtype, parse_passes
from autopar.terminal import coloured

ROOT = Path(__file__).resolve().parents[2]
Array = np.ndarray[Any, Any]


def run(
    tmp_path: Path, text: str, arrays: Sequence[Array], devices: int, *options: str
) -> list[Array] | None:
    """The results of a module, None where the exit status is 1 (then no file is written)."""
    (tmp_path / "m.mlir").write_text(text)
    np.savez(tmp_path / "in.npz", **{f"arg{i}": a for i, a in enumerate(arrays)})
    output = tmp_path / "out.npz"
    files = ["--inputs", str(tmp_path / "in.npz"), "--outputs", str(output)]
    module = str(tmp_path / "m.mlir")
    before = output.read_bytes() if output.exists() else None
    status = main(["run", module, "--devices", str(devices), *files, *options])
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []
    if status:
        assert status == 1
        assert (output.read_bytes() if output.exists() else None) == before
        return None
    with np.load(output, allow_pickle=False) as archive:
        assert list(archive) == [f"out{i}" for i in range(len(archive))]
        return [archive[name] for name in archive]


def random(*shape: int, dtype: Any = np.float32, seed: int = 0) -> Array:
    """Small whole numbers: exact in every dtype and order of summation."""
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(dtype)


UNEVEN = """
sdy.mesh @mesh = <["x"=2, "y"=4]>
func.func public @main(
    %arg0: tensor<7x6xf32> {sdy.sharding = #sdy.sharding<@mesh, [{"x"}, {"y"}]>},
    %arg1: tensor<6x10xf32> {sdy.sharding = #sdy.sharding<@mesh, [{"y"}, {}]>}
) -> (tensor<7x10xf32> {sdy.sharding = #sdy.sharding<@mesh, [{"x"}, {"y"}]>}, tensor<7xf32>) {
  %0 = stablehlo.dot_general %arg0, %arg1, contracting_dims = [1] x [0]
      : (tensor<7x6xf32>, tensor<6x10xf32>) -> tensor<7x10xf32>
  %zero = stablehlo.constant dense<0.0> : tensor<f32>
  %1 = stablehlo.reduce(%0 init: %zero) applies stablehlo.add across dimensions = [1]
      : (tensor<7x10xf32>, tensor<f32>) -> tensor<7xf32>
  return %0, %1 : tensor<7x10xf32>, tensor<7xf32>
}
"""

SUB_AXES = """
sdy.mesh @mesh = <["x"=2, "y"=4]>
func.func public @main(
    %arg0: tensor<5x9xbf16> {sdy.sharding = #sdy.sharding<@mesh, [{"y":(2)2}, {"y":(1)2}]>},
    %arg1: tensor<5x9xi4> {sdy.sharding = #sdy.sharding<@mesh, [{"y":(1)2, "x"}, {}]>},
    %arg2: tensor<i64>
) -> (tensor<9x5xbf16>, tensor<5x9xi4> {sdy.sharding = #sdy.sharding<@mesh, [{"x"}, {"y"}]>},
      tensor<5x9xi1>, tensor<i64>, tensor<5xf8E4M3FN>, tensor<9xui16>) {
  %0 = stablehlo.transpose %arg0, dims = [1, 0] : (tensor<5x9xbf16>) -> tensor<9x5xbf16>
  %1 = stablehlo.add %arg1, %arg1 : tensor<5x9xi4>
  %2 = stablehlo.compare LT, %arg0, %arg0 : (tensor<5x9xbf16>, tensor<5x9xbf16>) -> tensor<5x9xi1>
  %3 = stablehlo.multiply %arg2, %arg2 : tensor<i64>
  %4 = stablehlo.iota dim = 0 : tensor<5xf8E4M3FN>
  %5 = stablehlo.iota dim = 0 : tensor<9xui16>
  return %0, %1, %2, %3, %4, %5
      : tensor<9x5xbf16>, tensor<5x9xi4>, tensor<5x9xi1>, tensor<i64>, tensor<5xf8E4M3FN>,
        tensor<9xui16>
}
"""


def test_an_op_that_xla_does_not_know(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = """
sdy.mesh @m = <["x"=2]>
func.func @main(%a: tensor<2xf32>) -> tensor<2xf32> {
  %0 = "foo.bar"(%a) : (tensor<2xf32>) -> tensor<2xf32>
  return %0 : tensor<2xf32>
}"""
    assert run(tmp_path, text, [random(2)], 2) is None
    error = capsys.readouterr().err
    assert "m.mlir:4:8: error: 'foo.bar' op: XLA runs StableHLO only" in error


def test_uneven_dimensions(tmp_path: Path) -> None:
    a, b = random(7, 6), random(6, 10, seed=1)
    results = run(tmp_path, UNEVEN, [a, b], 8)
    assert results is not None
    np.testing.assert_array_equal(results[0], a @ b)
    np.testing.assert_array_equal(results[1], (a @ b).sum(1))


def test_sub_axes_and_dtypes(tmp_path: Path) -> None:
    """bf16 and f8 as float32, i4 as int8, 64 bits and booleans as they are."""
    a, b = random(5, 9), random(5, 9, dtype=np.int8, seed=1)
    results = run(tmp_path, SUB_AXES, [a, b, np.asarray(2**30)], 8)
    assert results is not None
    assert [r.dtype.name for r in results] == [
        "float32", "int8", "bool", "int64", "float32", "uint16",
    ]  # fmt: skip
    np.testing.assert_array_equal(results[0], a.T)
    np.testing.assert_array_equal(results[1], ((2 * b + 8) & 15) - 8)
    assert not results[2].any()
    assert results[3] == 2**60
    np.testing.assert_array_equal(results[4], np.arange(5))
    np.testing.assert_array_equal(results[5], np.arange(9))


def mlp(x: jax.Array, w: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
    hidden = jax.nn.relu(x @ w)
    return (hidden @ v), jnp.mean(hidden, axis=0)


def loop(x: jax.Array, n: jax.Array) -> jax.Array:
    return jax.lax.fori_loop(0, 3, lambda i, c: c + x * n, x)


def complex_values(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return x * 2j, jnp.real(x) > 0


CASES: dict[str, tuple[Callable[..., Any], list[Array], list[tuple[Any, ...]], tuple[int, ...]]] = {
    "data-parallel": (mlp, [random(16, 6), random(6, 8), random(8, 4)], [("x",), (), ()], (8,)),
    "tensor-parallel": (
        mlp,
        [random(16, 6), random(6, 8), random(8, 4)],
        [("x",), (None, "y"), ("y", None)],
        (2, 4),
    ),
    "three": (mlp, [random(9, 6), random(6, 9), random(9, 4)], [("x",), (None, "x"), ()], (3,)),
    "six": (mlp, [random(6, 6), random(6, 9), random(9, 4)], [("x",), (None, "y"), ()], (2, 3)),
    "one": (mlp, [random(6, 6), random(6, 9), random(9, 4)], [("x",), (), ()], (1,)),
    "loop": (loop, [random(8, 3), random(dtype=np.float32)], [(("x", "y"),), ()], (2, 4)),
    "complex": (complex_values, [random(8, 4, dtype=np.complex64)], [("y", "x")], (2, 4)),
    "half": (loop, [random(8, 3, dtype=np.float16), random(dtype=np.float16)], [("x",), ()], (2,)),
}


@pytest.mark.parametrize("name", CASES)
def test_what_jax_lowers(name: str, tmp_path: Path) -> None:
    """Programs as JAX writes them, annotated with NamedSharding, give one device's results."""
    fn, arrays, specs, shape = CASES[name]
    count = int(np.prod(shape))
    mesh = Mesh(np.array(jax.devices()[:count]).reshape(shape), ("x", "y")[: len(shape)])
    shardings = tuple(NamedSharding(mesh, PartitionSpec(*spec)) for spec in specs)
    text = jax.jit(fn, in_shardings=shardings).lower(*arrays).as_text()
    results = run(tmp_path, text, arrays, count)
    assert results is not None
    expected = jax.tree.leaves(jax.jit(fn)(*arrays))
    for result, reference in zip(results, expected, strict=True):
        assert result.dtype == file_dtype(np.dtype(reference.dtype))
        np.testing.assert_allclose(result, np.asarray(reference), rtol=1e-6)


def test_mesh_dialect_and_own_passes(tmp_path: Path) -> None:
    """A module without mesh and annotations, on the grid that the passes give."""
    text = """
func.func @main(%a: tensor<5xf32>) -> tensor<5xf32> {
  %0 = stablehlo.tanh %a : tensor<5xf32>
  return %0 : tensor<5xf32>
}
"""
    a = random(5)
    for passes in (
        "shard-partition{grid=2x4},convert-shard-to-stablehlo",
        "builtin.module(shard-partition{grid=2x4},convert-shard-to-stablehlo)",
        '--shard-partition="grid=2x4 axis-names=a,b" --convert-shard-to-stablehlo',
    ):
        results = run(tmp_path, text, [a], 8, f"--passes={passes}")
        assert results is not None, passes
        np.testing.assert_allclose(results[0], np.tanh(a), rtol=1e-6)


def levels(text: str) -> dict[str, tuple[str, str]]:
    """The text of every level of a program, and the passes that it still needs to run."""
    passes = ("import-sdy", "sharding-propagation", "shard-partition", "convert-shard-to-stablehlo")
    found: dict[str, tuple[str, str]] = {}
    for index, name in enumerate(passes):
        lowered = print_module(apply(parse_module(text), ",".join(passes[: index + 1])))
        found[name] = lowered, ",".join(passes[index + 1 :]) or "cse"
    return found


def test_every_level_runs_with_global_arrays(tmp_path: Path) -> None:
    arrays = [random(7, 6), random(6, 10, seed=1)]
    expected = run(tmp_path, UNEVEN, arrays, 8)
    assert expected is not None
    for name, (text, rest) in levels(UNEVEN).items():
        outputs = run(tmp_path, text, arrays, 8, f"--passes={rest}")
        assert outputs is not None, name
        for output, wanted in zip(outputs, expected, strict=True):
            np.testing.assert_array_equal(output, wanted, err_msg=name)


@pytest.mark.parametrize(
    ("level", "old", "new", "message"),
    [
        (
            "sharding-propagation",
            "",
            "",
            'argument 0 of @main is split <@mesh, [{"x"}, {"y"}]>, and has no autopar.global: '
            "run shard-partition before convert-shard-to-stablehlo",
        ),
        (
            "shard-partition",
            "autopar.global = tensor<7x6xf32>",
            "autopar.global = tensor<70x6xf32>",
            "argument 0 of @main is tensor<4x2xf32>, its autopar.layout of tensor<70x6xf32> says "
            "tensor<35x2xf32>",
        ),
        (
            "shard-partition",
            "autopar.global = tensor<7x6xf32>",
            "autopar.global = tensor<7x6xf64>",
            "its autopar.layout of tensor<7x6xf64> says tensor<4x2xf64>",
        ),
        (
            "shard-partition",
            "autopar.global = tensor<7x6xf32>",
            "autopar.global = tensor<7xf32>",
            "has 2 dimensions, the tensor has 1",
        ),
        (
            "shard-partition",
            'autopar.sharding = #autopar.sharding<@mesh, [{"x"}, {"y"}]>}, %arg1',
            'autopar.sharding = #autopar.sharding<@mesh, [{"y"}, {"x"}]>}, %arg1',
            "its autopar.layout of tensor<7x6xf32> says tensor<2x3xf32>",
        ),
        (
            "shard-partition",
            "shape = array<i64: 2, 4>",
            "shape = array<i64: 4, 4>",
            "is not the grid @mesh (x=2, y=4)",
        ),
        (
            "convert-shard-to-stablehlo",
            'dims = [["x"], ["y"]], global = tensor<7x6xf32>',
            'dims = [["x"], ["q"]], global = tensor<7x6xf32>',
            'axis "q" does not exist',
        ),
        (
            "convert-shard-to-stablehlo",
            'dims = [["x"], ["y"]], global = tensor<7x6xf32>',
            "dims = 3, global = tensor<7x6xf32>",
            "has no lists of axes",
        ),
    ],
)
def test_a_level_that_contradicts_itself(
    level: str,
    old: str,
    new: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """XLA would end the process, or run another program."""
    text, rest = levels(UNEVEN)[level]
    rest = "convert-shard-to-stablehlo" if rest != "cse" else rest
    assert old in text
    arrays = [random(7, 6), random(6, 10)]
    assert run(tmp_path, text.replace(old, new, 1), arrays, 8, f"--passes={rest}") is None
    error = capsys.readouterr().err
    assert message in error and error.startswith(f"{tmp_path}/m.mlir:"), error


def test_json_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = random(7, 6), random(6, 10, seed=1)
    assert run(tmp_path, UNEVEN, [a, b], 8, "--json") is not None
    output, errors = capsys.readouterr()
    report = json.loads(output)
    assert report["version"] == 1 and report["grid"] == {"x": 2, "y": 4} and not errors
    assert report["arguments"][0] == {
        "name": "arg0",
        "dtype": "float32",
        "shape": [7, 6],
        "dims": [["x"], ["y"]],
    }


def test_silent_off_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, UNEVEN, [random(7, 6), random(6, 10)], 8) is not None
    assert capsys.readouterr() == ("", "")


# ---- errors --------------------------------------------------------------------------------------

GOOD = (random(7, 6), random(6, 10))
WRONG: dict[str, tuple[str, Sequence[Array], int, tuple[str, ...], str]] = {
    "devices": (UNEVEN, GOOD, 6, (), "grid (x=2, y=4) has 8 devices, --devices says 6"),
    "missing": (UNEVEN, GOOD[:1], 8, (), "arg1 is missing (@main wants tensor<6x10xf32>)"),
    "surplus": (
        UNEVEN,
        (*GOOD, GOOD[0]),
        8,
        (),
        "arg2 would not be read, @main takes arg0, arg1: leave it out",
    ),
    "shape": (UNEVEN, (GOOD[0], GOOD[0]), 8, (), "arg1 has shape (7, 6), expected (6, 10)"),
    "dtype": (
        UNEVEN,
        (GOOD[0].astype(np.float64), GOOD[1]),
        8,
        (),
        "arg0 has dtype float64, expected float32",
    ),
    "bf16": (
        SUB_AXES,
        (random(5, 9, dtype=np.float16), random(5, 9, dtype=np.int8), np.asarray(1)),
        8,
        (),
        "arg0 has dtype float16, expected float32 (for bf16)",
    ),
    "i4": (
        SUB_AXES,
        (random(5, 9), np.full((5, 9), 8, np.int8), np.asarray(1)),
        8,
        (),
        "arg1 holds values that i4 cannot",
    ),
    "pickle": (
        UNEVEN,
        (np.array([[print]], object), GOOD[1]),
        8,
        (),
        "arg0 cannot be read: Object arrays cannot be loaded",
    ),
    "malformed": (
        UNEVEN.replace("[1] x [0]", "[1] y [0]"),
        GOOD,
        8,
        (),
        "m.mlir:7:67: error: custom op 'stablehlo.dot_general' expected 'x'",
    ),
    "type": (UNEVEN.replace("-> tensor<7xf32>\n", "-> tensor<8xf32>\n"), GOOD, 8, (), "error: "),
    "axis": (UNEVEN.replace('[{"y"}, {}]', '[{"z"}, {}]'), GOOD, 8, (), "z"),
    "no grid": (
        UNEVEN.replace("sdy.mesh", "// sdy.mesh").replace(
            "{sdy.sharding = #sdy.sharding<@mesh, [", "// ["
        ),
        GOOD,
        8,
        (),
        "error: ",
    ),
    "no main": (UNEVEN.replace("@main", "@mian"), GOOD, 8, (), "has no function @main"),
    "token": (
        "func.func @main(%t: !stablehlo.token) -> !stablehlo.token "
        "{ return %t : !stablehlo.token }",
        (),
        8,
        (),
        "m.mlir:1:1: error: argument 0 of @main has type !stablehlo.token: only tensors can be run",
    ),
    "dynamic": (
        "func.func @main(%t: tensor<2x?xf32>) -> tensor<2x?xf32> { return %t : tensor<2x?xf32> }",
        (),
        8,
        (),
        "the shape of argument 0 of @main must be static, found 2x?",
    ),
    "recursion": (
        """shard.grid @m(shape = 8)
        func.func private @g(%a: tensor<2xf32>) -> tensor<2xf32> {
          %0 = func.call @h(%a) : (tensor<2xf32>) -> tensor<2xf32>
          return %0 : tensor<2xf32>
        }
        func.func private @h(%a: tensor<2xf32>) -> tensor<2xf32> {
          %0 = func.call @g(%a) : (tensor<2xf32>) -> tensor<2xf32>
          return %0 : tensor<2xf32>
        }
        func.func @main(%a: tensor<2xf32>) -> tensor<2xf32> {
          %0 = func.call @g(%a) : (tensor<2xf32>) -> tensor<2xf32>
          return %0 : tensor<2xf32>
        }""",
        (random(2),),
        8,
        (),
        "m.mlir:7:16: error: @g calls itself: XLA knows no recursion",
    ),
    "custom call": (
        """shard.grid @m(shape = 8)
        func.func @main(%a: tensor<8xf32>) -> tensor<8xf32> {
          %0 = stablehlo.custom_call @nothing(%a) : (tensor<8xf32>) -> tensor<8xf32>
          return %0 : tensor<8xf32>
        }""",
        (random(8),),
        8,
        (),
        "m.mlir:3:16: error: 'stablehlo.custom_call' op: No registered implementation for untyped "
        "custom call to nothing",
    ),
    "grid": (
        "func.func @main(%a: tensor<2xf32>) -> tensor<2xf32> { return %a : tensor<2xf32> }",
        (random(2),),
        8,
        (),
        'give --shard-partition="grid=2x4" (autopar run: in --passes) or a shard.grid (sdy.mesh)',
    ),
    "pass": (UNEVEN, GOOD, 8, ("--passes=import-sdi",), "did you mean 'import-sdy'"),
    "option": (UNEVEN, GOOD, 8, ("--passes=cse{x=1}",), "pass 'cse' has no option 'x'"),
    "flag": (UNEVEN, GOOD, 8, ("--passes=--remarks",), "--passes takes passes only"),
    "unfinished": (UNEVEN, GOOD, 8, ("--passes=import-sdy",), "run shard-partition and convert"),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, arrays, devices, options, message = WRONG[name]
    (tmp_path / "out.npz").write_text("from an earlier run")
    assert run(tmp_path, text, arrays, devices, *options) is None
    output, errors = capsys.readouterr()
    assert not output
    assert message in errors and "Traceback" not in errors
    assert errors.startswith(("autopar", str(tmp_path))) and ": error: " in errors


def test_files_that_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = tmp_path / "m.mlir"
    module.write_text(UNEVEN)
    plain, npy = tmp_path / "plain.npz", tmp_path / "one.npy"
    plain.write_text("no archive")
    np.save(npy, random(2))
    out = str(tmp_path / "out.npz")

    def error(*arguments: str) -> str:
        assert main(["run", *arguments, "--devices", "8"]) == 1
        assert not Path(out).exists()
        return capsys.readouterr().err

    assert "cannot read nowhere.mlir: No such file" in error("nowhere.mlir", "--outputs", out)
    assert "give --inputs FILE.npz" in error(str(module), "--outputs", out)
    for file, message in (
        (tmp_path / "none.npz", "No such file or directory"),
        (plain, "it is no npz archive"),
        (npy, "it holds one array, it is no npz archive"),
    ):
        assert message in error(str(module), "--inputs", str(file), "--outputs", out)
    nowhere = str(tmp_path / "no" / "out.npz")
    assert "there is no folder" in error(str(module), "--outputs", nowhere)
    assert "it is a folder" in error(str(module), "--outputs", str(tmp_path))


def test_an_older_output_survives_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A typo in the command line costs nobody his results."""
    old = tmp_path / "precious.npz"
    np.savez(old, weights=random(3))
    before = old.read_bytes()
    wrong = tmp_path / "wrong.mlir"
    wrong.write_text("func.func @main( {")
    for module, message in (("nosuch.mlir", "cannot read nosuch.mlir"), (str(wrong), "error: ")):
        assert main(["run", module, "--devices", "8", "--outputs", str(old)]) == 1
        assert message in capsys.readouterr().err
        assert old.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["precious.npz", "wrong.mlir"]


def test_inputs_survive_a_failure(tmp_path: Path) -> None:
    """--outputs may name the input file: it is replaced by a success, and kept by a failure."""
    module, arrays = tmp_path / "m.mlir", tmp_path / "a.npz"
    module.write_text(UNEVEN)
    np.savez(arrays, arg0=random(7, 6), arg1=random(6, 10))
    files = ["--inputs", str(arrays), "--outputs", str(arrays)]
    assert main(["run", str(module), "--devices", "6", *files]) == 1
    assert arrays.exists()
    assert main(["run", str(module), "--devices", "8", *files]) == 0
    assert list(np.load(arrays)) == ["out0", "out1"]


def test_file_dtypes() -> None:
    for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float4_e2m1fn"):
        assert file_dtype(np.dtype(getattr(ml_dtypes, name))) == np.float32
    assert file_dtype(np.dtype(ml_dtypes.int4)) == np.int8
    assert file_dtype(np.dtype(ml_dtypes.uint4)) == np.uint8
    for name in ("float16", "int64", "bool", "complex64"):
        assert file_dtype(np.dtype(name)) == np.dtype(name)


def test_default_passes() -> None:
    assert [spec.name for spec in parse_passes(None)] == [
        "import-sdy",
        "sharding-propagation",
        "shard-partition",
        "optimize-collectives",
        "free-early",
        "convert-shard-to-stablehlo",
    ]


# ---- the command itself --------------------------------------------------------------------------


def command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "NO_COLOR")}
    return subprocess.run(
        [sys.executable, "-m", "autopar.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
        env={**environment, **variables},
    )


def test_fresh_process(tmp_path: Path) -> None:
    """Six virtual devices are made as asked; nothing is said; every level of the IR is dumped."""
    text = UNEVEN.replace('"x"=2, "y"=4', '"x"=2, "y"=3')
    (tmp_path / "m.mlir").write_text(text)
    a, b = random(7, 6), random(6, 10)
    np.savez(tmp_path / "in.npz", arg0=a, arg1=b)
    done = command(
        "run", str(tmp_path / "m.mlir"), "--devices", "6", "--inputs", str(tmp_path / "in.npz"),
        "--outputs", str(tmp_path / "out.npz"), AUTOPAR_DUMP_DIR=str(tmp_path / "dump"),
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    np.testing.assert_array_equal(np.load(tmp_path / "out.npz")["out0"], a @ b)
    dumps = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.glob("dump/*/*"))
    assert dumps == [
        "dump/000-module/00-input.mlir",
        "dump/000-module/01-import-sdy.mlir",
        "dump/000-module/02-sharding-propagation.mlir",
        "dump/000-module/03-shard-partition.mlir",
        "dump/000-module/04-optimize-collectives.mlir",
        "dump/000-module/05-free-early.mlir",
        "dump/000-module/06-convert-shard-to-stablehlo.mlir",
    ]
    assert "shard.all_reduce" in (tmp_path / dumps[3]).read_text()


def test_version_help_and_env() -> None:
    assert main(["--version"]) == 0
    done = command("--help")
    assert done.returncode == 0 and "run" in done.stdout and "selftest" in done.stdout
    assert "usage: autopar run" in command("run", "--help").stdout
    done = command()
    assert done.returncode == 1 and "usage: autopar" in done.stderr
    facts = json.loads(command("env", "--json", JAX_PLATFORMS="cpu").stdout)
    assert facts["packages"]["jax"] == jax.__version__ and facts["jax"] == "supported"
    assert facts["variables"]["JAX_PLATFORMS"] == "cpu"
    assert "cpu" in next(iter(facts["devices"]))


@pytest.mark.parametrize(
    "arguments", ["--version", "--help", "run --help", "env", "env --json", "selftest --help"]
)
def test_an_output_that_cannot_be_written(arguments: str) -> None:
    for redirection, message in (
        (">&-", "cannot write -: standard output is closed"),
        ("> /dev/full", "cannot write -: No space left on device"),
    ):
        shell = f"{sys.executable} -m autopar.cli {arguments} {redirection}"
        done = subprocess.run(shell, shell=True, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
        assert message in done.stderr


def test_env_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env"]) == 0
    assert f"jax               {jax.__version__}" in capsys.readouterr().out


def test_wrong_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rum"]) == 1
    assert capsys.readouterr().err.startswith("autopar: error: ")
    assert main(["run", "m.mlir"]) == 1
    assert "the following arguments are required: --devices" in capsys.readouterr().err
    assert main(["run", "m.mlir", "--devices=0", "--outputs=x"]) == 1
    assert "expected a whole number of at least 1, found '0'" in capsys.readouterr().err
    assert main(["run", "m.mlir", "--devices=1", "--outputs=x", "--grid=8"]) == 1
    assert "unrecognized arguments: --grid=8" in capsys.readouterr().err


def test_parallelize_dumps_every_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import autopar

    monkeypatch.setenv("AUTOPAR_DUMP_DIR", str(tmp_path / "dump"))
    double = autopar.parallelize(lambda x: x * 2, method="dp", mesh=(4,))
    for size in (8, 16):
        np.testing.assert_array_equal(double(jnp.ones(size)), 2)
    folders = sorted((tmp_path / "dump").iterdir())
    assert [folder.name[:4] for folder in folders] == ["000-", "001-"]
    assert [file.name for file in sorted(folders[1].iterdir())] == [
        "00-stablehlo.mlir",
        "01-sharded.mlir",
        "02-decided.mlir",
        "03-spmd.mlir",
        "04-per-device.mlir",
    ]


# ---- terminals -----------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    arrays = [random(7, 6), random(6, 10)]
    assert run(tmp_path, UNEVEN, arrays, 8) is not None
    assert "running on 8 cpu devices" in terminal.getvalue()
    assert terminal.getvalue().rstrip().endswith("s)")
    for variables, options in (({}, ("-q",)), ({"TERM": "dumb"}, ())):
        terminal.truncate(0)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert run(tmp_path, UNEVEN, arrays, 8, *options) is not None
        assert terminal.getvalue().strip("\0") == ""


def test_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert coloured("error:", "red", Terminal()) == "\033[31merror:\033[0m"
    assert coloured("error:", "red", io.StringIO()) == "error:"
    monkeypatch.setenv("NO_COLOR", "1")
    assert coloured("error:", "red", Terminal()) == "error:"
