// RUN: autopar-opt %s --split-input-file --verify-diagnostics
// RUN: not autopar-opt %s --split-input-file 2>&1 | filecheck %s

func.func @undefined(%a: tensor<4xf32>) -> tensor<4xf32> {
  // CHECK: errors.mlir:7:{{[0-9]+}}: error: use of undeclared SSA value name
  // expected-error@+1 {{use of undeclared SSA value name}}
  %0 = stablehlo.add %a, %b : tensor<4xf32>
  return %0 : tensor<4xf32>
}

// -----

func.func @types(%a: tensor<4xf32>) -> tensor<3xf32> {
  // CHECK: errors.mlir:17:{{[0-9]+}}: error: attribute permutation must be a permutation of [0] but got 1
  // CHECK-NEXT: note: 'stablehlo.transpose' op failed to infer returned types
  // expected-error@below {{attribute permutation must be a permutation}}
  %0 = "stablehlo.transpose"(%a) <{permutation = array<i64: 1>}> : (tensor<4xf32>) -> tensor<3xf32>
  return %0 : tensor<3xf32>
}

// -----

// CHECK: errors.mlir:25:18: error: Expected 'shape'
// expected-error@+1 {{Expected 'shape'}}
shard.grid @mesh(shpe = 2x4)
