"""JAX programs into our IR, our IR into XLA executables.

- importer.py: jaxlib's in-memory modules into xDSL; bytecode_reader.py reads their operations,
  native_attributes.py their attributes, types and locations;
- exporter.py: the way back, by bytecode: bytecode.py knows the format, bytecode_entries.py
  attributes and types as entries of its tables;
- parse.py, print.py: MLIR text in and out; foreign.py puts dialects that jaxlib does not know in
  generic form, grid_disguise.py shows it a shard.grid as an sdy.mesh;
- mlir_context.py: jaxlib's contexts (the dialects are registered by a private name), and its errors
  as ours;
- program.py: a per-device program as data, for the runtime;
- jax_compat: the only package that touches JAX's private interfaces.

All but jax_compat need jaxlib alone; parse and print do without it, too.
"""
