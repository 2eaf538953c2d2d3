"""lit configuration: `lit lit_tests` runs the IR tests with the interpreter that runs lit."""

# ruff: noqa: F821
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from autopar.lit import configure

configure(config, __file__)  # pyright: ignore[reportUndefinedVariable]
