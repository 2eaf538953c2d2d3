"""`autopar run`: a module on N devices of this machine, with global arrays.

The module is a global, annotated one, or, with other `--passes`, of any level that they bring to
one program for every device: what the arrays are is read off that.

Arrays are named arg0, arg1, … and out0, out1, … in @main's order and keep their dtypes; what an npz
file cannot hold is read and written wider: bf16, f8 and the like as float32, i4 and i2 as int8.
"""

from __future__ import annotations

import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from xdsl.dialects.builtin import DYNAMIC_INDEX, ModuleOp, TensorType
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute
from xdsl.utils.hints import isa

from .dialects import make_context
from .dialects.constants import UnsupportedElementType, element_type_of_dtype, numpy_dtype
from .dialects.diagnostics import Diagnostic, DiagnosticError, collect_remarks, working_on
from .dialects.stablehlo import CustomCallOp
from .dump import Dump
from .files import output_path, write_whole
from .lowering.parse import parse_module
from .lowering.program import DeviceProgram, Layout, device_program
from .opt import parse_arguments
from .passes.manager import PassSpec, build_pipeline, parse_pipeline
from .passes.pipelines import RUN
from .passes.progress import watched
from .passes.walk import inner_ops
from .reading import read_input, transform
from .terminal import Progress, UsageError

if TYPE_CHECKING:
    from xdsl.passes import ModulePass

Array = NDArray[Any]


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    module: str
    devices: int
    inputs: str | None
    outputs: str
    passes: str | None = None
    """A pipeline in any spelling that autopar-opt knows; None: `passes.pipelines.RUN`."""


@dataclass
class Report:
    """What a run did, for `--json`."""

    devices: int
    platform: str = ""
    grid: dict[str, int] = field(default_factory=dict[str, int])
    arguments: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    results: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    remarks: list[Diagnostic] = field(default_factory=list[Diagnostic])

    def as_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        values = {**vars(self), "remarks": [remark.text for remark in self.remarks]}
        return {"version": 1, **values}


def parse_passes(text: str | None) -> list[PassSpec]:
    """The passes of `--passes`: a pipeline text, or flags as on autopar-opt's command line."""
    if text is None:
        return [PassSpec(name) for name in RUN]
    if not text.lstrip().startswith("-"):
        return parse_pipeline(text)
    import shlex

    options = parse_arguments(shlex.split(text))
    others = [*options.files, *(f"--{flag}" for flag in sorted(options.flags))]
    if others:
        raise UsageError(f"--passes takes passes only, found '{others[0]}'")
    return options.specs


def run(request: Request, progress: Progress) -> Report:
    """Compiles, runs, and writes the results; nothing is written where anything fails.

    UsageError, PipelineError, DiagnosticError and DeviceError say what is wrong in one line.
    """
    with working_on(request.module):
        return _run(request, progress)


def _run(request: Request, progress: Progress) -> Report:
    report = Report(request.devices)
    clock = _Clock(report.seconds)
    passes = build_pipeline(parse_passes(request.passes))
    target = output_path(request.outputs)
    progress.step(f"reading {request.module}")
    context = make_context()
    module = parse_module(read_input(request.module), request.module, context)
    check_main(module)
    clock.lap("read")
    progress.step("partitioning")
    dump = Dump(module, context)
    dump.write("input", module)

    def after(pass_: ModulePass, module: ModuleOp) -> None:
        dump.write(pass_.name, module)

    with collect_remarks() as remarks, watched(progress.step):
        transform(module, passes, context, after)
        program = device_program(module)
    report.remarks = remarks
    _check_devices(program, request.devices)
    _check_whole(program)
    clock.lap("partition")
    arrays = read_arrays(request.inputs, [global_type(a) for a in program.arguments])
    clock.lap("read")
    results = execute(program, arrays, request.devices, report, progress, clock)
    progress.step(f"writing {request.outputs}")
    write_arrays(target, {f"out{i}": a for i, a in enumerate(results)})
    clock.lap("write")
    return report


def execute(
    program: DeviceProgram,
    arrays: Sequence[Array],
    devices: int,
    report: Report,
    progress: Progress,
    clock: _Clock,
) -> list[Array]:
    """Runs a per-device program on global host arrays and gives global host arrays."""
    from .runtime.devices import init_devices

    local = init_devices(devices)
    import jax

    from .runtime.embedded import MeshExecutable, fetch, place

    report.platform = local[0].platform
    report.grid = dict(program.grid.axes)
    progress.step(f"compiling for {devices} {report.platform} devices")
    with jax.enable_x64(True):  # 64-bit arrays keep their dtype
        try:
            executable = MeshExecutable(program, local)
        except RuntimeError as error:  # XLA's
            found = _at_custom_call(program.module, str(error))
            if found is None:
                raise
            raise found from error
        clock.lap("compile")
        progress.step(f"running on {devices} {report.platform} devices")
        placed = [
            place(array, layout, sharding, program.grid)
            for array, layout, sharding in zip(
                arrays, program.arguments, executable.input_shardings, strict=True
            )
        ]
        outputs = executable.run(placed)
        results = [
            to_file(fetch(output, layout))
            for output, layout in zip(outputs, program.results, strict=True)
        ]
    clock.lap("run")
    report.arguments = [_described("arg", i, a) for i, a in enumerate(program.arguments)]
    report.results = [_described("out", i, r) for i, r in enumerate(program.results)]
    return results


def _at_custom_call(module: ModuleOp, reason: str) -> DiagnosticError | None:
    """An error of XLA's about the target of a custom_call, at that op; None for others."""
    if "NOT_FOUND" in reason and "custom call" in reason:
        for op in inner_ops(module):
            if isinstance(op, CustomCallOp) and f" {op.call_target_name.data} " in reason:
                return DiagnosticError(op, f"'{op.name}' op: {reason.partition(': ')[2] or reason}")
    return None


class _Clock:
    """Seconds of each step."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds = seconds
        self._start = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self._seconds[name] = round(self._seconds.get(name, 0.0) + now - self._start, 4)
        self._start = now


def _described(prefix: str, index: int, layout: Layout) -> dict[str, Any]:
    return {
        "name": f"{prefix}{index}",
        "dtype": str(layout.dtype),
        "shape": list(layout.shape),
        "dims": [list(dim) for dim in layout.dims],
    }


# ---- what the module asks for --------------------------------------------------------------------


def check_main(module: ModuleOp) -> None:
    """DiagnosticError where @main's arguments or results are none that arrays can stand for."""
    main = next(
        (op for op in module.ops if isinstance(op, FuncOp) and op.sym_name.data == "main"), None
    )
    if main is None or main.is_declaration:
        raise DiagnosticError(module, "the module has no function @main to run")
    kinds = (("argument", main.function_type.inputs), ("result", main.function_type.outputs))
    for what, sequence in kinds:
        for index, type_ in enumerate(sequence):
            if not isa(type_, TensorType[Attribute]):
                raise DiagnosticError(
                    main, f"{what} {index} of @main has type {type_}: only tensors can be run"
                )
            if not type_.has_static_shape():
                raise DiagnosticError(
                    main,
                    f"the shape of {what} {index} of @main must be static, found {_shape(type_)}",
                )
            try:
                numpy_dtype(type_.element_type)
            except UnsupportedElementType as error:
                raise DiagnosticError(main, f"{what} {index} of @main: {error}") from None


def global_type(layout: Layout) -> TensorType[Attribute]:
    """The type of a whole array."""
    return TensorType(element_type_of_dtype(layout.dtype), layout.shape)


def _shape(type_: TensorType[Attribute]) -> str:
    return "x".join("?" if size == DYNAMIC_INDEX else str(size) for size in type_.get_shape())


def _check_devices(program: DeviceProgram, devices: int) -> None:
    grid = program.grid
    if grid.num_devices != devices:
        axes = ", ".join(f"{name}={size}" for name, size in grid.axes)
        raise DiagnosticError(
            program.module,
            f"the module's grid ({axes}) has {grid.num_devices} devices, --devices says {devices}: "
            f"give --devices {grid.num_devices}, or change the module's grid",
        )


def _check_whole(program: DeviceProgram) -> None:
    """Every argument and result has a global type: the passes have made a whole program."""
    for what, layouts in (("argument", program.arguments), ("result", program.results)):
        for index, layout in enumerate(layouts):
            if layout.dtype is None:
                raise DiagnosticError(program.module, f"{what} {index} of @main is no tensor")
            if layout.is_partial:
                raise DiagnosticError(
                    program.module,
                    f"{what} {index} of @main is left unreduced, each device has a summand of it: "
                    "give it a sharding without unreduced axes to run the module",
                )


# ---- arrays in and out ---------------------------------------------------------------------------


def file_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype by which a file holds values of `dtype`: NumPy's own where it has one."""
    if dtype.isbuiltin == 1:
        return dtype
    if dtype.name.startswith("uint"):
        return np.dtype(np.uint8)
    return np.dtype(np.int8 if dtype.name.startswith("int") else np.float32)


def to_file(array: Array) -> Array:
    """An array as it is written."""
    return array.astype(file_dtype(array.dtype), copy=False)


def read_arrays(name: str | None, types: Sequence[TensorType[Attribute]]) -> list[Array]:
    """The arrays arg0, … of an npz file, checked against @main; UsageError names the wrong one."""
    if name is None:
        if types:
            raise UsageError(f"@main takes {len(types)} arrays (arg0, …): give --inputs FILE.npz")
        return []
    with _open_npz(name) as archive:
        arrays = [_read_array(archive, name, index, t) for index, t in enumerate(types)]
        surplus = [key for key in archive if key not in {f"arg{i}" for i in range(len(types))}]
    if surplus:
        wanted = ", ".join(f"arg{index}" for index in range(len(types))) or "none"
        raise UsageError(
            f"{name}: {', '.join(surplus)} would not be read, @main takes {wanted}: leave it out"
        )
    return arrays


def _open_npz(name: str) -> Any:
    try:
        archive: Any = np.load(name, allow_pickle=False)
    except OSError as error:
        raise UsageError(f"cannot read {name}: {error.strerror or error}") from None
    except (ValueError, EOFError, zipfile.BadZipFile):
        raise UsageError(f"cannot read {name}: it is no npz archive (numpy.savez)") from None
    if not hasattr(archive, "files"):
        raise UsageError(f"cannot read {name}: it holds one array, it is no npz archive")
    return archive


def _read_array(
    archive: Mapping[str, Array], name: str, index: int, type_: TensorType[Attribute]
) -> Array:
    argument = f"arg{index}"
    if argument not in archive:
        present = ", ".join(archive) or "no array"
        raise UsageError(f"{name}: {argument} is missing (@main wants {type_}); it holds {present}")
    try:
        array = archive[argument]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{name}: {argument} cannot be read: {error}") from None
    dtype = numpy_dtype(type_.element_type)
    expected = file_dtype(dtype)
    if array.dtype.newbyteorder("=") != expected:
        spelled = "" if expected == dtype else f" (for {type_.element_type})"
        raise UsageError(
            f"{name}: {argument} has dtype {array.dtype}, expected {expected}{spelled}"
        )
    if array.shape != type_.get_shape():
        raise UsageError(
            f"{name}: {argument} has shape {array.shape}, expected {type_.get_shape()}"
        )
    converted = array.astype(dtype, copy=False)
    if dtype != expected and expected.kind in "iu" and np.any(converted.astype(expected) != array):
        raise UsageError(f"{name}: {argument} holds values that {type_.element_type} cannot")
    return converted


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """An npz file, whole or not at all."""

    def write(file: IO[bytes]) -> None:
        np.savez(file, allow_pickle=False, **arrays)

    write_whole(path, write)
