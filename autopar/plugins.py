"""Plug-ins: modules of third parties that register rules, localizers and passes when imported.

An installed package names its module under the entry-point group `autopar.plugins`; the command
lines also take `--load=MODULE`, a dotted name or a file.

    [project.entry-points."autopar.plugins"]
    mine = "my_package.autopar_rules"
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

from .terminal import UsageError

GROUP = "autopar.plugins"

logger = logging.getLogger("autopar")


@cache
def load_installed_plugins() -> tuple[str, ...]:
    """Imports the plug-ins of installed packages, once a process; their names.

    One that fails is told on the logger `autopar`, and left out: a program that does not need it
    is not stopped by it.
    """
    loaded: list[str] = []
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            entry.load()
        except Exception as error:
            logger.warning("plug-in %s (%s) cannot be loaded: %r", entry.name, entry.value, error)
        else:
            loaded.append(entry.name)
    return tuple(loaded)


def load_plugin(name: str) -> None:
    """Imports a plug-in by its dotted name or its file; UsageError says why it cannot be."""
    try:
        if name.endswith(".py"):
            _load_file(Path(name))
        else:
            import_module(name)
    except Exception as error:
        raise UsageError(f"cannot load {name}: {type(error).__name__}: {error}") from error


def _load_file(path: Path) -> None:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)  # where classes look their module up
    spec.loader.exec_module(module)
