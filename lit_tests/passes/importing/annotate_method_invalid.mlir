// RUN: autopar-opt %s --annotate-method="batch-axis=w" --split-input-file --verify-diagnostics

// expected-error@+1 {{batch-axis=w: grid @mesh has no such axis (its axes: x, y)}}
module {
  shard.grid @mesh(shape = 2x4) {axis_names = ["x", "y"]}
  func.func public @main(%p: tensor<3xf32> {autopar.kind = "parameter"}) -> tensor<3xf32> {
    return %p : tensor<3xf32>
  }
}

// -----

shard.grid @mesh(shape = 2x4) {axis_names = ["x", "w"]}
// expected-error@+1 {{argument 0: autopar.batch_dim = 7 : i64 is no dimension of tensor<8x3xf32>, which has 2, counted from 0}}
func.func public @main(%b: tensor<8x3xf32> {autopar.kind = "batch", autopar.batch_dim = 7 : i64}) -> tensor<8x3xf32> {
  return %b : tensor<8x3xf32>
}

// -----

shard.grid @mesh(shape = 2x4) {axis_names = ["x", "w"]}
// expected-error@+1 {{argument 0: autopar.kind = "weights" is none of parameter, optimizer_state, batch, other}}
func.func public @main(%p: tensor<3xf32> {autopar.kind = "weights"}) -> tensor<3xf32> {
  return %p : tensor<3xf32>
}

// -----

// expected-error@unknown {{annotate-method needs a device grid, and the module declares none: give --annotate-method="grid=2x4" or a shard.grid}}
func.func @main(%b: tensor<8xf32>) -> tensor<8xf32> {
  return %b : tensor<8xf32>
}
