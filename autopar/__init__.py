"""autopar: a single-device JAX program, run on a cluster."""
