// The same result by each spelling of a pipeline.
// RUN: autopar-opt %s --cse --dce | filecheck %s
// RUN: autopar-opt %s --pass-pipeline='builtin.module(cse,func.func(dce))' | filecheck %s
// RUN: autopar-opt %s -p cse,dce | filecheck %s
// RUN: cat %s | autopar-opt - -p cse --dce | autopar-opt | filecheck %s

// CHECK-LABEL: func.func @main
func.func @main(%a: tensor<4xf32>) -> tensor<4xf32> {
  // CHECK-NEXT: %0 = stablehlo.tanh %arg0 : tensor<4xf32>
  // CHECK-NEXT: %1 = stablehlo.add %0, %0 : tensor<4xf32>
  // CHECK-NEXT: return %1
  %0 = stablehlo.tanh %a : tensor<4xf32>
  %1 = stablehlo.tanh %a : tensor<4xf32>
  %2 = stablehlo.sine %a : tensor<4xf32>
  %3 = stablehlo.add %0, %1 : tensor<4xf32>
  return %3 : tensor<4xf32>
}
