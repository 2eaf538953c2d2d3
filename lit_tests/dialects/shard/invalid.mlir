// RUN: autopar-opt %s --split-input-file --verify-diagnostics

shard.grid @grid(shape = 2x4) {axis_names = ["data", "model"]}
func.func @f(%x: tensor<6xf32>) {
  // expected-error@+1 {{dimension of size 6 of tensor<6xf32> is not divisible by the 4 devices of grid axes [1] of @grid (2, 4); pad it first}}
  %0 = shard.all_slice %x on @grid grid_axes = [1] slice_axis = 0 : tensor<6xf32> -> tensor<2xf32>
  return
}

// -----

shard.grid @grid(shape = 2x4) {axis_names = ["data", "model"]}
func.func @f(%x: tensor<6xf32>) {
  // expected-error@+1 {{grid axis 1 ("model") is used twice}}
  %0 = shard.all_reduce %x on @grid grid_axes = [1, 1] : tensor<6xf32> -> tensor<6xf32>
  return
}

// -----

// expected-error@+1 {{axis name "x" is used twice}}
shard.grid @grid(shape = 2x4) {axis_names = ["x", "x"]}
