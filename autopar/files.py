"""Output files: checked before any work is done, written whole or not at all."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

from .terminal import UsageError


def output_path(name: str) -> Path:
    """The path of a file that can be written; UsageError says why it cannot."""
    path = Path(name)
    target = _followed(path)
    if target.is_dir():
        raise UsageError(f"cannot write {name}: it is a folder")
    if not target.parent.is_dir():
        raise UsageError(f"cannot write {name}: there is no folder {target.parent}")
    if _is_special(target):
        if not os.access(target, os.W_OK):
            raise UsageError(f"cannot write {name}: it is not writable")
    elif not os.access(target.parent, os.W_OK):
        raise UsageError(f"cannot write {name}: the folder {target.parent} is not writable")
    return path


def write_whole(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Writes a file by a function, in its place only when it is complete.

    A device or a pipe is written to, and never replaced.
    """
    target = _followed(path)
    try:
        if _is_special(target):
            whole = io.BytesIO()
            write(whole)
            with target.open("wb") as file:
                file.write(whole.getbuffer())
        else:
            _replace(target, write)
    except BrokenPipeError:
        raise UsageError(f"cannot write {path}: its reader has gone") from None
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from None


def _followed(path: Path) -> Path:
    """The file itself where a link stands, as opening it finds it."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _is_special(path: Path) -> bool:
    """Whether something other than a file stands there."""
    return path.exists() and not path.is_file()


def _replace(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    temporary: str | None = None
    try:
        with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = file.name
            write(file)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = None
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
