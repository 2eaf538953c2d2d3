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
from importlib import import_module, invalidate_caches
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
    """Imports a plug-in by its dotted name, also from the working folder as `python -m` does, or by
    its file. One that is imported already, under whatever name, is left as it is. UsageError says
    why it cannot be."""
    try:
        if name.endswith(".py"):
            _load_file(Path(name))
        else:
            _load_module(name)
    except Exception as error:
        raise UsageError(f"cannot load {name}: {type(error).__name__}: {error}") from error


def _load_module(name: str) -> None:
    folder = str(Path.cwd())
    if not sys.flags.safe_path and folder not in sys.path:
        sys.path.insert(0, folder)
    invalidate_caches()  # the file may be newer than what Python knows of its folder
    if name not in sys.modules:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None and _is_imported(Path(spec.origin)):
            return
    import_module(name)


def _load_file(path: Path) -> None:
    if _is_imported(path):
        return
    # Another module may have the name: what is registered says by it where it is from.
    name = path.stem if path.stem not in sys.modules else str(path.resolve())
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _is_imported(path: Path) -> bool:
    """Whether a module is of this file."""
    resolved = path.resolve()
    files = (getattr(module, "__file__", None) for module in tuple(sys.modules.values()))
    return any(
        file is not None and file.endswith(resolved.name) and Path(file).resolve() == resolved
        for file in files
    )
