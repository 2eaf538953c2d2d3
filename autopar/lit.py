"""A lit configuration for IR tests that use autopar-opt; ours, and for other projects to import.

# lit.cfg.py
from autopar.lit import configure
configure(config, __file__, name="my-project")
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

TOOLS = {"mlir-opt-22": "mlir-opt", "xdsl-opt": "xdsl-opt"}
"""Optional tools, and the feature name that `// REQUIRES:` knows them by."""


def configure(
    config: Any, config_file: str, *, name: str = "autopar", suffixes: tuple[str, ...] = (".mlir",)
) -> None:
    """Set up a lit `config`: the interpreter that runs lit also runs autopar-opt and filecheck.

    Substitutions: `autopar-opt`, `%python`. Features: `jaxlib`, `mlir-opt`, `xdsl-opt`.
    """
    import lit.formats  # pyright: ignore[reportMissingTypeStubs]

    config.name = name
    config.test_format = lit.formats.ShTest(execute_external=False)
    config.suffixes = list(suffixes)
    config.excludes = [*getattr(config, "excludes", []), "lit.cfg.py", "Inputs"]
    config.test_source_root = str(Path(config_file).resolve().parent)

    root = Path(__file__).resolve().parent.parent
    scripts = str(Path(sys.executable).parent)
    environment = config.environment
    environment["PATH"] = os.pathsep.join([scripts, environment.get("PATH", os.environ["PATH"])])
    inherited = os.environ.get("PYTHONPATH", "")
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), inherited]))
    for variable in ("JAX_PLATFORMS", "XLA_FLAGS", "HOME"):
        if variable in os.environ:
            environment[variable] = os.environ[variable]
    # by path, so that a checkout that is not installed is tested as it stands (lit's own `cat`
    # drops PYTHONPATH for the rest of a pipe)
    start = (
        f"import sys; sys.path.insert(0, '{root}'); from autopar.opt import main; sys.exit(main())"
    )
    command = f'"{sys.executable}" -c "{start}"'
    config.substitutions.append((r"(?<![\w./-])autopar-opt(?![\w-])", command))
    config.substitutions.append(("%python", f'"{sys.executable}"'))

    from importlib.util import find_spec

    if find_spec("jaxlib") is not None:
        config.available_features.add("jaxlib")
    for tool, feature in TOOLS.items():
        if shutil.which(tool, path=environment["PATH"]):
            config.available_features.add(feature)
