"""What is installed here: versions, devices, tools (`autopar env`, `--version`)."""

# JAX's annotations are partial:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

REQUIRED = ("jax", "jaxlib", "xdsl", "numpy", "ml_dtypes", "ortools")
OPTIONAL = {
    "flax": "models and examples",
    "optax": "models and examples",
    "equinox": "tests",
    "orbax-checkpoint": "checkpoints of the examples",
    "matplotlib": "loss curves of the examples",
    "filecheck": "IR tests",
    "lit": "IR tests",
    "pytest": "tests",
    "hypothesis": "tests",
    "xdsl-jax": "another owner of the stablehlo dialect in xdsl-opt",
}
TOOLS = ("autopar-opt", "xdsl-opt", "lit", "filecheck", "mlir-opt-22")
VARIABLES = (
    "AUTOPAR_DUMP_DIR",
    "AUTOPAR_TRACEBACK",
    "JAX_COMPILATION_CACHE_DIR",
    "JAX_ENABLE_X64",
    "JAX_PLATFORMS",
    "NO_COLOR",
    "XLA_FLAGS",
)


def installed_version(package: str) -> str | None:
    """The version of an installed package, None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def version_text() -> str:
    """One line: autopar and what it stands on."""
    from . import __version__

    others = [f"{name} {installed_version(name) or '(not installed)'}" for name in REQUIRED[:3]]
    return f"autopar {__version__}, {', '.join(others)}\n"


def environment() -> dict[str, Any]:
    """The facts, as JSON values."""
    from . import __version__

    return {
        "version": 1,
        "autopar": __version__,
        "location": str(Path(__file__).resolve().parent.parent),
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": f"{platform.platform()}, {os.cpu_count()} processors",
        "packages": {name: installed_version(name) for name in REQUIRED},
        "optional": {name: installed_version(name) for name in OPTIONAL},
        "tools": {name: _tool(name) for name in TOOLS},
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "jax": _jax(),
        "devices": _devices(),
    }


def _tool(name: str) -> str | None:
    beside = Path(sys.executable).parent
    return shutil.which(name, path=os.pathsep.join([str(beside), os.environ.get("PATH", "")]))


def _jax() -> str:
    """Whether the installed JAX is one that autopar works with."""
    try:
        from autopar.lowering.jax_compat import check_jax_version

        check_jax_version()
    except ImportError as error:
        return str(error)
    return "supported"


def _devices() -> dict[str, int] | str:
    """How many devices of each kind JAX sees, or why it sees none."""
    try:
        import jax

        counts: dict[str, int] = {}
        for device in jax.devices():
            kind = f"{device.platform} ({device.device_kind})"
            counts[kind] = counts.get(kind, 0) + 1
    except (ImportError, RuntimeError) as error:
        return str(error).partition("\n")[0]
    return counts


def environment_text(facts: dict[str, Any]) -> str:
    """The facts for a reader."""
    rows: list[tuple[str, str]] = [
        (name, facts[name]) for name in ("autopar", "location", "python", "system", "jax")
    ]
    devices: dict[str, int] | str = facts["devices"]
    if isinstance(devices, str):
        rows.append(("devices", f"none: {devices}"))
    else:
        rows.append(("devices", ", ".join(f"{n} x {kind}" for kind, n in devices.items())))
    rows += [(n, v or "not installed (needed)") for n, v in facts["packages"].items()]
    rows += [(n, v or f"not installed (for {OPTIONAL[n]})") for n, v in facts["optional"].items()]
    rows += [(n, v or "not found") for n, v in facts["tools"].items()]
    rows += [(n, v) for n, v in facts["variables"].items()]
    width = max(len(name) for name, _ in rows)
    return "".join(f"{name:{width}}  {value}\n" for name, value in rows)
