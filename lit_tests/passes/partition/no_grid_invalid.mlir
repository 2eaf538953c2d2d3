// RUN: autopar-opt %s --split-input-file --verify-diagnostics --shard-partition

// expected-error@unknown {{the module declares none: give --shard-partition="grid=2x4" (autopar run: in --passes) or a shard.grid}}
func.func @f() {
  return
}

// -----

// expected-error@unknown {{the module declares none: run convert-mesh-to-shard first}}
mesh.mesh @mesh(shape = 8)
func.func @f() {
  return
}

// -----

// expected-error@unknown {{the module declares none: run import-sdy first}}
sdy.mesh @mesh = <["x"=8]>
func.func @f() {
  return
}
