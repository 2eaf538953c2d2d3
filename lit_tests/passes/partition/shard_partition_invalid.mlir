// RUN: autopar-opt %s --split-input-file --verify-diagnostics --shard-partition="grid=2x4"

// expected-error@unknown {{the option grid=2x4 differs from the module's grid @mesh ("x"=8)}}
shard.grid @mesh(shape = 8) {axis_names = ["x"]}
func.func @f() {
  return
}
