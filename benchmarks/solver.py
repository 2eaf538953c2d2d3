"""The solver on IOPDDL instances: cost against the best known, bound, time.

    python -m benchmarks.solver FOLDER [NAME …] [--seed N] [--scale 1.0]

FOLDER holds the instances as NAME.json or NAME.json.gz (https://github.com/google/iopddl; they are
not ours to ship). Each runs as `autopar solve` does, in a process of its own, at the contest's time
limit times `--scale`. Ratios are cost / best known cost: 1 is as good, below 1 is better.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from .options import at_least


class Instance(NamedTuple):
    """The contest's time limit, and the best cost and bound published."""

    limit_s: float
    best: int
    bound: int


INSTANCES = {
    "A": Instance(60, 6548641531, 6513812173),
    "G": Instance(120, 217039, 216933),
    "M": Instance(180, 49920082653, 49429153686),
    "S": Instance(240, 1511377982, 1511240136),
}
"""From contest tables and the winners' logs; other instances have no known time limits here."""

DEFAULT_LIMIT_S = 60.0


def run(path: Path, limit_s: float, seed: int) -> dict[str, float]:
    """The report of one solve, with the seconds of the whole process."""
    with TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "autopar.cli", "solve", str(path), "--json"),
            *("--time-limit", str(limit_s), "--seed", str(seed), "-o", f"{folder}/solution.json"),
        ]
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr.strip())
        return {**json.loads(done.stdout), "process_s": time.perf_counter() - start}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seed", type=at_least(0), default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="of the time limits")
    options = parser.parse_args()
    files = {path.name.split(".")[0]: path for path in sorted(options.folder.glob("*.json*"))}
    if not files:
        parser.error(f"{options.folder}: no folder of instances, NAME.json or NAME.json.gz")
    for name in options.names:
        if name not in files:
            parser.error(f"{options.folder} has no instance {name}; it has {', '.join(files)}")
    header = ("instance", "cost", "ratio", "bound", "gap %", "limit s", "time s", "reproducible")
    print(" ".join(f"{title:>13}" for title in header))
    for name in options.names or files:
        known = INSTANCES.get(name)
        limit_s = options.scale * (known.limit_s if known else DEFAULT_LIMIT_S)
        report = run(files[name], limit_s, options.seed)
        row = (
            name,
            str(report["cost"]),
            f"{report['cost'] / known.best:.5f}" if known else "-",
            str(report["lower_bound"]),
            f"{100 * report['gap']:.3f}",
            f"{limit_s:.0f}",
            f"{report['process_s']:.1f}",
            str(bool(report["reproducible"])),
        )
        print(" ".join(f"{cell:>13}" for cell in row), flush=True)


if __name__ == "__main__":
    main()
