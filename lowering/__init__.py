"""JAX programs into our IR, our IR into XLA executables.

`jax_compat` is the only module that touches JAX's private interfaces; `mlir_context`, `importer`,
`exporter` and `parse` need jaxlib alone.
"""
