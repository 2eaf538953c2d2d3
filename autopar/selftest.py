"""Does this installation work?  python -m autopar.selftest [--devices 1|3|6|8]

Every layer is tried in the order in which a program travels, from parsing to training steps whose
results must be one device's; within a minute. The layers that fail are named, with the reason.
"""

# JAX's annotations are partial:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .methods import method_names
from .terminal import Progress, coloured, write_json, write_stdout

DEFAULT_DEVICES = 8
"""Virtual CPU devices where there are no real ones."""

PROGRAM = """
module @selftest {
  sdy.mesh @mesh = <["x"=2, "y"=4]>
  func.func public @main(
      %arg0: tensor<7x12xf32> {sdy.sharding = #sdy.sharding<@mesh, [{"x"}, {"y"}]>},
      %arg1: tensor<12x5xf32> {sdy.sharding = #sdy.sharding<@mesh, [{"y"}, {}]>})
      -> tensor<7x5xf32> {
    %0 = stablehlo.dot_general %arg0, %arg1, contracting_dims = [1] x [0]
        : (tensor<7x12xf32>, tensor<12x5xf32>) -> tensor<7x5xf32>
    %1 = stablehlo.tanh %0 : tensor<7x5xf32>
    return %1 : tensor<7x5xf32>
  }
}
"""

DIALECTS = """
shard.grid @grid(shape = 2x4)
func.func @ops(%a: tensor<8x4xf32>) -> tensor<4x8xf32> {
  %0 = shard.all_gather %a on @grid grid_axes = [1] gather_axis = 1
      : tensor<8x4xf32> -> tensor<8x16xf32>
  %1 = shard.all_reduce %a on @grid grid_axes = [0] : tensor<8x4xf32> -> tensor<8x4xf32>
  %2 = "stablehlo.transpose"(%1) <{permutation = array<i64: 1, 0>}>
      : (tensor<8x4xf32>) -> tensor<4x8xf32>
  %3 = "stablehlo.constant"() <{value = dense<[0x7F800000, 0xFF800000]> : tensor<2xf32>}>
      : () -> tensor<2xf32>
  %4 = "chlo.square"(%a) : (tensor<8x4xf32>) -> tensor<8x4xf32>
  return %2 : tensor<4x8xf32>
}
"""

MESH_DIALECT = """
mesh.mesh @mesh(shape = 2x4)
func.func @f(%a: tensor<8x4xf32>) -> tensor<8x4xf32> {
  %0 = mesh.shard %a to <@mesh, [[0], [1]]> : tensor<8x4xf32>
  return %0 : tensor<8x4xf32>
}
"""


class Check(NamedTuple):
    """One layer."""

    name: str
    run: Callable[[int | None], str | None]
    """Takes the device count that was asked for; gives a remark; raises if the layer fails."""
    needs_devices: bool = True
    """Whether it cannot work where the layer `devices` fails."""


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


# ---- the layers ----------------------------------------------------------------------------------


def check_versions(_: int | None) -> str:
    """jax, jaxlib and xdsl are there, in versions that autopar works with."""
    from autopar.lowering.jax_compat import check_jax_version

    from .environment import version_text

    check_jax_version()
    return version_text().strip()


def check_parser(_: int | None) -> None:
    """jaxlib reads what we print; mistakes come back as errors with their place."""
    from .dialects.diagnostics import DiagnosticError
    from .lowering.parse import parse_module
    from .lowering.print import print_module

    text = print_module(parse_module(PROGRAM))
    _expect(print_module(parse_module(text)) == text, "a printed module reads back differently")
    try:
        parse_module(PROGRAM.replace("stablehlo.tanh", "stablehlo.tan_h"), "a.mlir")
    except DiagnosticError as error:
        _expect(str(error).startswith("a.mlir:"), f"an error without its place: {error}")
    else:
        raise AssertionError("a malformed module was accepted")


def check_dialects(_: int | None) -> None:
    """Our dialects print and parse, through xDSL alone; constants keep their bits."""
    from .embed import apply
    from .lowering.parse import parse_module
    from .lowering.print import print_module

    for text in (DIALECTS, MESH_DIALECT):
        first = print_module(parse_module(text, use_jaxlib=False), use_jaxlib=False)
        again = print_module(parse_module(first, use_jaxlib=False), use_jaxlib=False)
        _expect(first == again, f"a printed module reads back differently:\n{again}")
    _expect("0x7F800000" in print_module(parse_module(DIALECTS)), "inf was lost")
    converted = print_module(apply(parse_module(MESH_DIALECT), "convert-mesh-to-shard"))
    _expect("shard.shard" in converted, f"mesh.shard was not converted:\n{converted}")


def check_importer(_: int | None) -> None:
    """JAX's in-memory modules come in and go out unchanged."""
    import jax

    from .lowering.exporter import export_module
    from .lowering.importer import import_module

    def program(x: Any) -> Any:
        return jax.lax.scan(lambda c, v: (c * v, jax.nn.gelu(c)), x[0], x)

    native = jax.jit(program).lower(jax.ShapeDtypeStruct((4, 3), "bfloat16")).compiler_ir()
    exported: Any = export_module(import_module(native))
    _expect(str(exported) == str(native), "a module changed on its way through xDSL")


def _stage(pipeline: str) -> str:
    from .embed import apply
    from .lowering.parse import parse_module
    from .lowering.print import print_module

    return print_module(apply(parse_module(PROGRAM), pipeline))


def check_propagation(_: int | None) -> None:
    """Shardings spread to a fixed point."""
    text = _stage("import-sdy,sharding-propagation")
    expected = 'stablehlo.tanh %0 {autopar.sharding = [#autopar.sharding<@mesh, [{"x"}, {}]>]}'
    _expect(expected in text, f"expected {expected} in\n{text}")


def check_partition(_: int | None) -> None:
    """Local shapes, padding, and exactly the collectives that are needed."""
    text = _stage("import-sdy,sharding-propagation,shard-partition,optimize-collectives")
    _expect("tensor<4x3xf32>, tensor<3x5xf32>" in text, f"local shapes are wrong:\n{text}")
    _expect(text.count("shard.all_reduce") == 1, f"expected one all_reduce:\n{text}")
    _expect("all_gather" not in text, f"expected no all_gather:\n{text}")


def check_devices(count: int | None) -> str:
    """As many devices as asked for."""
    devices = _devices(count)
    return f"{len(devices)} x {devices[0].platform}"


def check_execution(count: int | None) -> None:
    """A partitioned program compiles and runs on the devices, with NumPy's result."""
    import numpy as np

    from .embed import apply
    from .lowering.parse import parse_module
    from .lowering.program import device_program
    from .passes.pipelines import RUN
    from .runtime.embedded import MeshExecutable, fetch, place

    devices = _devices(count)
    x, y = _mesh_shape(len(devices))
    text = PROGRAM.replace('"x"=2, "y"=4', f'"x"={x}, "y"={y}')
    program = device_program(apply(parse_module(text), ",".join(RUN)))
    executable = MeshExecutable(program, devices)
    random = np.random.default_rng(0)
    arrays = [random.standard_normal(a.shape).astype(a.dtype) for a in program.arguments]
    placed = [
        place(array, layout, sharding, program.grid)
        for array, layout, sharding in zip(
            arrays, program.arguments, executable.input_shardings, strict=True
        )
    ]
    result = fetch(executable.run(placed)[0], program.results[0])
    _close(result, np.tanh(arrays[0] @ arrays[1]), 1e-2 if devices[0].platform != "cpu" else 1e-5)


def check_method(method: str) -> Callable[[int | None], None]:
    """The check of a method: three training steps of an MLP, as on one device."""

    def check(count: int | None) -> None:
        import jax
        import numpy as np

        import autopar

        devices = _devices(count)
        autopar.init(len(devices))
        step, state, batch = _training_step(len(devices))
        with jax.default_device(devices[0]):
            reference = _train(jax.jit(step), state, batch)
        mesh: Any = _mesh_shape(len(devices)) if method == "shard" else (len(devices),)
        if method == "shard":
            mesh, state, batch = _annotate(devices, mesh, state, batch)
        losses, final = _train(autopar.parallelize(step, method=method, mesh=mesh), state, batch)
        tolerance = 1e-2 if devices[0].platform != "cpu" else 1e-4
        _close(np.array(losses), np.array(reference[0]), tolerance)
        for ours, theirs in zip(jax.tree.leaves(final), jax.tree.leaves(reference[1]), strict=True):
            _close(np.asarray(ours), np.asarray(theirs), tolerance)

    return check


DEVICES = Check("devices", check_devices, False)  # before JAX makes its backend
CHECKS: tuple[Check, ...] = (
    Check("versions", check_versions, False),
    DEVICES,
    Check("parser", check_parser, False),
    Check("dialects", check_dialects, False),
    Check("importer", check_importer, False),
    Check("propagation", check_propagation, False),
    Check("partition", check_partition, False),
    Check("execution", check_execution),
    *(Check(f"method {name}", check_method(name)) for name in method_names()),
)


# ---- what they share -----------------------------------------------------------------------------


def _devices(count: int | None) -> list[Any]:
    """The devices asked for; by default all real ones, else eight virtual ones."""
    from .runtime.devices import DeviceError, init_devices

    if count is not None:
        return init_devices(count)
    try:
        devices = init_devices(DEFAULT_DEVICES)
    except DeviceError:
        return init_devices(None)
    real = init_devices(None)
    return devices if real[0].platform == "cpu" else real


def _mesh_shape(count: int) -> tuple[int, int]:
    """Two axes, as equal as the count allows, the smaller one first."""
    first = max(n for n in range(1, count + 1) if count % n == 0 and n * n <= count)
    return first, count // first


def _training_step(count: int) -> tuple[Callable[..., Any], Any, Any]:
    """A step with momentum on a small MLP, its state and a batch; sizes that few meshes divide."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    random = np.random.default_rng(0)

    def normal(*shape: int) -> Any:
        return random.standard_normal(shape).astype(np.float32)

    params = {"w": normal(10, 24) / 4, "b": np.zeros(24, np.float32), "v": normal(24, 5) / 4}
    batch = {"x": normal(4 * count, 10), "y": normal(4 * count, 5)}

    def loss_of(params: Any, batch: Any) -> Any:
        hidden = jax.nn.gelu(batch["x"] @ params["w"] + params["b"])
        return jnp.mean((hidden @ params["v"] - batch["y"]) ** 2)

    def step(state: Any, batch: Any) -> Any:
        params, momentum = state
        loss, grads = jax.value_and_grad(loss_of)(params, batch)
        momentum = jax.tree.map(lambda m, g: 0.9 * m + g, momentum, grads)
        params = jax.tree.map(lambda p, m: p - 0.05 * m, params, momentum)
        return (params, momentum), loss

    momentum = {name: np.zeros_like(value) for name, value in params.items()}
    return step, (params, momentum), batch


def _annotate(devices: Sequence[Any], shape: tuple[int, int], state: Any, batch: Any) -> Any:
    """Tensor parallel weights and a sharded batch, as a user would place them."""
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    mesh = Mesh(np.array(devices).reshape(shape), ("data", "model"))
    # a dimension that its axis does not divide cannot be placed: JAX's rule
    model = "model" if 24 % shape[1] == 0 else None
    specs = {
        "w": PartitionSpec(None, model),
        "b": PartitionSpec(model),
        "v": PartitionSpec(model, None),
    }

    def place(tree: dict[str, Any]) -> dict[str, Any]:
        return {k: jax.device_put(v, NamedSharding(mesh, specs[k])) for k, v in tree.items()}

    data = NamedSharding(mesh, PartitionSpec("data"))
    return mesh, tuple(map(place, state)), {k: jax.device_put(v, data) for k, v in batch.items()}


def _train(step: Callable[..., Any], state: Any, batch: Any) -> tuple[list[float], Any]:
    losses: list[float] = []
    for _ in range(3):
        state, loss = step(state, batch)
        losses.append(float(loss))
    return losses, state


def _close(result: Any, expected: Any, tolerance: float) -> None:
    import numpy as np

    error = float(np.max(np.abs(result - expected) / (np.abs(expected) + 1e-1), initial=0.0))
    _expect(
        result.shape == expected.shape and error <= tolerance,
        f"the result differs from one device's: relative error {error:.1e} > {tolerance:.0e}",
    )


# ---- the command ---------------------------------------------------------------------------------


def run_selftest(devices: int | None, *, quiet: bool = False, as_json: bool = False) -> int:
    """Runs all checks; the exit status."""
    results: list[dict[str, Any]] = []
    shown = not quiet and not as_json
    has_devices = True
    with Progress("autopar selftest", quiet=not shown) as progress:
        for check in CHECKS:
            progress.step(check.name)
            start = time.perf_counter()
            if check.needs_devices and not has_devices:
                ok, message = False, f"not tried: the layer '{DEVICES.name}' fails"
            else:
                ok, message = _try(check, devices)
            has_devices &= ok or check is not DEVICES
            seconds = round(time.perf_counter() - start, 3)
            progress.done()
            results.append({"layer": check.name, "ok": ok, "seconds": seconds, "message": message})
            if shown or (quiet and not as_json and not ok):
                _print(results[-1])
    failed = [result["layer"] for result in results if not result["ok"]]
    if as_json:
        write_json({"version": 1, "ok": not failed, "checks": results})
    elif failed:
        others = f" (and {', '.join(failed[1:])})" if failed[1:] else ""
        write_stdout(f"autopar does not work here: the layer '{failed[0]}' fails{others}\n")
    elif shown:
        total = sum(result["seconds"] for result in results)
        write_stdout(f"autopar works here ({len(results)} layers, {total:.1f} s)\n")
    return 1 if failed else 0


def _try(check: Check, devices: int | None) -> tuple[bool, str]:
    """Whether a check passes, and what it has to say."""
    try:
        return True, check.run(devices) or ""
    except AssertionError as error:
        return False, str(error)
    except Exception as error:
        return False, f"{type(error).__name__}: {error}"


def _print(result: dict[str, Any]) -> None:
    text, colour = ("ok  ", "green") if result["ok"] else ("FAIL", "red")
    verdict = coloured(text, colour, sys.stdout)
    message = f"  {result['message']}" if result["message"] else ""
    write_stdout(f"{verdict}  {result['layer']:14} {result['seconds']:6.2f} s{message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m autopar.selftest` is `autopar selftest`."""
    from .cli import main as cli_main

    return cli_main(["selftest", *(sys.argv[1:] if arguments is None else arguments)])


if __name__ == "__main__":
    sys.exit(main())
