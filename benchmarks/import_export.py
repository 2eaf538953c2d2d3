"""Import and export of a GPT training step, as ratios to what `jit.lower` takes in the same run.

    python -m benchmarks.import_export [--layers 24 96]

Target: import <= 0.10x and export <= 0.05x of lowering, linear in the number of layers.
"""

from __future__ import annotations

import argparse
import time

import jax

from autopar.lowering.exporter import export_module
from autopar.lowering.importer import import_module

from .programs import GPTSizes, gpt_step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, nargs="+", default=[24, 96])
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{'layers':>6} {'ops':>7} {'lower s':>8} {'import x':>9} {'export x':>9} {'ops/s':>16}")
    for layers in arguments.layers:
        step, inputs = gpt_step(GPTSizes(layers=layers))
        start = time.perf_counter()
        module = jax.jit(step).lower(*inputs).compiler_ir("stablehlo")
        lower = time.perf_counter() - start
        imports: list[float] = []
        exports: list[float] = []
        operations = 0
        for _ in range(arguments.repeat):
            start = time.perf_counter()
            imported = import_module(module)
            imports.append(time.perf_counter() - start)
            operations = sum(1 for _ in imported.walk())
            start = time.perf_counter()
            export_module(imported)
            exports.append(time.perf_counter() - start)
            del imported
        best_import, best_export = min(imports), min(exports)
        print(
            f"{layers:6} {operations:7} {lower:8.2f} {best_import / lower:9.3f}"
            f" {best_export / lower:9.3f} {operations / best_import:8.0f}"
            f"{operations / best_export:8.0f}"
        )


if __name__ == "__main__":
    main()
