"""What every test runs on; to be set before JAX makes its backend.

Eight virtual CPU devices. LLVM optimises nothing: XLA's own passes are the same, so the programs,
their collectives and their buffers are what users get, and machine code that no test times is made
in half the time, which is most of what the tests take. A flag that is set already stays.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
for _flag, _value in {
    "--xla_force_host_platform_device_count": 8,
    "--xla_backend_optimization_level": 0,
}.items():
    if _flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_flag}={_value}".strip()
