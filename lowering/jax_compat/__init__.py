"""The one package that touches JAX's private interfaces.

Everything here was checked on jax 0.10.2 and 0.11.2; tests/lowering/test_jax_compat.py tells what
moved when a new release breaks it. No other module of autopar may import `jax._src` or
`jaxlib._jax`.
"""

from .release import SUPPORTED_JAX, check_jax_version

check_jax_version()  # before the imports that fail in another release

from .batch_sizes import mark_batch_sizes  # noqa: E402
from .equations import EQUATION, Rewrite, evaluate_numbered, number_equations  # noqa: E402
from .executables import (  # noqa: E402
    backend_is_initialized,
    compile_replicas,
    execute,
    execute_with_token,
    register_effects,
    result_handler,
)
from .tracing import (  # noqa: E402
    lower_traced,
    lowered_parts,
    ordered_effect,
    program_meshes,
    trace_context,
    trace_state_clean,
    user_place,
)
from .values import ArrayImpl, canonical_dtype, is_key_dtype, key_data, key_impl  # noqa: E402

__all__ = [
    "EQUATION",
    "SUPPORTED_JAX",
    "ArrayImpl",  # the type of all jax.Arrays that are neither traced nor keys
    "Rewrite",
    "backend_is_initialized",
    "canonical_dtype",
    "check_jax_version",
    "compile_replicas",
    "evaluate_numbered",
    "execute",
    "execute_with_token",
    "is_key_dtype",
    "key_data",
    "key_impl",
    "lower_traced",
    "lowered_parts",
    "mark_batch_sizes",
    "number_equations",
    "ordered_effect",
    "program_meshes",
    "register_effects",
    "result_handler",
    "trace_context",
    "trace_state_clean",
    "user_place",
]
