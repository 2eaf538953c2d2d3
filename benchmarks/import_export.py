"""Import and export of a GPT training step, as ratios to what `jit.lower` takes in the same run.

    python -m benchmarks.import_export [--layers 24 96]

The module as JAX gives it, and merged as the compile road takes it (equal ops are merged first; the
time of that counts as import). Target: import <= 0.10x and export <= 0.05x of lowering, linear in
the number of layers.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import jax

from autopar.lowering.exporter import export_module
from autopar.lowering.importer import import_module
from autopar.lowering.mlir_context import merge_equal_ops

from . import options
from .programs import GPTSizes, gpt_step


def measure(module: Any, repeat: int) -> tuple[int, float, float]:
    """Ops of a module, and the least seconds that its import and its export took."""
    imports: list[float] = []
    exports: list[float] = []
    operations = 0
    for _ in range(repeat):
        start = time.perf_counter()
        imported = import_module(module)
        imports.append(time.perf_counter() - start)
        operations = sum(1 for _ in imported.walk())
        start = time.perf_counter()
        exported = export_module(imported)
        exports.append(time.perf_counter() - start)
        del exported  # not in the time: `lower` keeps its module, too
    return operations, min(imports), min(exports)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=options.at_least(1), nargs="+", default=[24, 96])
    parser.add_argument("--repeat", type=options.at_least(1), default=3)
    arguments = parser.parse_args()
    print("layers module      ops lower s  import x  export x  import ops/s  export ops/s")
    for layers in arguments.layers:
        step, inputs = gpt_step(GPTSizes(layers=layers))
        start = time.perf_counter()
        module = jax.jit(step).lower(*inputs).compiler_ir("stablehlo")
        lower = time.perf_counter() - start
        merge = 0.0
        for name in ("whole", "merged"):
            if name == "merged":
                start = time.perf_counter()
                merge_equal_ops(module)
                merge = time.perf_counter() - start
            operations, imported, exported = measure(module, arguments.repeat)
            imported += merge
            print(
                f"{layers:6} {name:6} {operations:8} {lower:7.2f} {imported / lower:9.3f} "
                f"{exported / lower:9.3f} {operations / imported:13.0f} "
                f"{operations / exported:13.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
