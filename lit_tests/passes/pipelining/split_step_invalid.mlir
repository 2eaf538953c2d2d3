// RUN: autopar-opt %s --split-step="num-micro-batches=2" --split-input-file --verify-diagnostics

// expected-error@+1 {{split-step needs the batch: no argument has autopar.kind = "batch"}}
func.func public @main(%p: tensor<3xf32> {autopar.kind = "parameter"}) -> tensor<3xf32> {
  return %p : tensor<3xf32>
}

// -----

func.func public @main(
    %batch: tensor<2x3xf32> {autopar.kind = "batch", autopar.batch_dim = 0 : i64}) -> tensor<i32> {
  %zero = "stablehlo.constant"() <{value = dense<0> : tensor<i32>}> : () -> tensor<i32>
  %0 = "stablehlo.convert"(%batch) : (tensor<2x3xf32>) -> tensor<2x3xi32>
  // expected-error@+1 {{result 0 (tensor<i32>) depends on the batch but has no batch dimension and is no float: it cannot be put together from microbatches}}
  %1 = "stablehlo.reduce"(%0, %zero) <{dimensions = array<i64: 0, 1>}> ({
  ^bb0(%x: tensor<i32>, %y: tensor<i32>):
    %2 = "stablehlo.add"(%x, %y) : (tensor<i32>, tensor<i32>) -> tensor<i32>
    "stablehlo.return"(%2) : (tensor<i32>) -> ()
  }) : (tensor<2x3xi32>, tensor<i32>) -> tensor<i32>
  return %1 : tensor<i32>
}

// -----

// The first row of a microbatch: no value of each example.
func.func @main(
    %batch: tensor<2x3xf32> {autopar.kind = "batch", autopar.batch_dim = 0 : i64}) -> tensor<1x3xf32> {
  // expected-error@+1 {{result 0 (tensor<1x3xf32>) mixes examples of the batch, or holds a part of them: it cannot be put together from microbatches}}
  %0 = "stablehlo.slice"(%batch) <{start_indices = array<i64: 0, 0>, limit_indices = array<i64: 1, 3>, strides = array<i64: 1, 1>}> : (tensor<2x3xf32>) -> tensor<1x3xf32>
  return %0 : tensor<1x3xf32>
}

// -----

// A result that JAX has lost the name of.
func.func @main(
    %batch: tensor<2x3xf32> {autopar.kind = "batch", autopar.batch_dim = 0 : i64}) -> (tensor<1x3xf32> {jax.result_info = ""}) {
  // expected-error@+1 {{result 0 (tensor<1x3xf32>) mixes examples of the batch}}
  %0 = "stablehlo.slice"(%batch) <{start_indices = array<i64: 0, 0>, limit_indices = array<i64: 1, 3>, strides = array<i64: 1, 1>}> : (tensor<2x3xf32>) -> tensor<1x3xf32>
  return %0 : tensor<1x3xf32>
}
