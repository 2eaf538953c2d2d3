"""`AUTOPAR_DUMP_DIR`: every level of the IR as a numbered file.

    AUTOPAR_DUMP_DIR=dump python train.py
    dump/000-jit_step/00-stablehlo.mlir, 01-sharded.mlir, …

A program gets the next free folder, so that several programs and runs stand side by side.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp

VARIABLE = "AUTOPAR_DUMP_DIR"

logger = logging.getLogger("autopar")


class Dump:
    """The files of one program; does nothing where the variable is not set."""

    def __init__(self, module: ModuleOp, context: Context) -> None:
        self._context = context
        self._count = 0
        root = os.environ.get(VARIABLE, "")
        self._folder = _new_folder(Path(root), _name_of(module)) if root else None

    def write(self, name: str, module: ModuleOp) -> None:
        """The module as it is now, under the next number."""
        if self._folder is None:
            return
        from autopar.lowering.print import print_module

        path = self._folder / f"{self._count:02}-{name}.mlir"
        self._count += 1
        try:
            path.write_text(print_module(module, self._context, verify=False), encoding="utf-8")
        except Exception as error:  # a dump is never a reason to fail
            logger.warning("%s: %s could not be written: %s", VARIABLE, path, error)


def _name_of(module: ModuleOp) -> str:
    name = module.sym_name.data if module.sym_name is not None else "module"
    return re.sub(r"[^\w.-]", "_", name)[:80]


def _new_folder(root: Path, name: str) -> Path | None:
    """A folder of its own for a program, numbered in order of creation."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        taken = [int(p.name[:3]) for p in root.iterdir() if re.match(r"\d{3}-", p.name)]
        number = max(taken, default=-1) + 1
        while True:
            folder = root / f"{number:03}-{name}"
            try:
                folder.mkdir()
                return folder
            except FileExistsError:
                number += 1
    except OSError as error:
        logger.warning("%s=%s cannot be used: %s", VARIABLE, root, error.strerror)
        return None
