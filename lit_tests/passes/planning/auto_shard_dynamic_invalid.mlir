// RUN: autopar-opt %s --auto-shard="grid=2" --split-input-file --verify-diagnostics

// expected-error@+1 {{auto-shard: argument 1 of @main is a tensor<?xf32>: write sizes in the place of ?}}
func.func @main(%a: tensor<8xf32>, %b: tensor<?xf32>) -> tensor<8xf32> {
  return %a : tensor<8xf32>
}

// -----

func.func @main(%a: tensor<8xf32>, %n: tensor<1xi32>) -> tensor<f32> {
  // expected-error@+1 {{auto-shard: the result of 'stablehlo.dynamic_reshape' is a tensor<?xf32>: write sizes}}
  %0 = stablehlo.dynamic_reshape %a, %n : (tensor<8xf32>, tensor<1xi32>) -> tensor<?xf32>
  %1 = stablehlo.constant dense<0.0> : tensor<f32>
  return %1 : tensor<f32>
}
