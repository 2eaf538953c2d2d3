// RUN: autopar-opt %s --dce | filecheck %s

// CHECK:      func.func @f(%[[A:.*]]: tensor<4xf32>)
// CHECK-NEXT: stablehlo.custom_call @effect(%[[A]])
// CHECK-NEXT: return %[[A]]
// CHECK:      func.func private @unused

func.func @f(%a: tensor<4xf32>) -> tensor<4xf32> {
  %0 = "stablehlo.sine"(%a) : (tensor<4xf32>) -> tensor<4xf32>
  %1 = "stablehlo.cosine"(%0) : (tensor<4xf32>) -> tensor<4xf32>
  "stablehlo.custom_call"(%a) <{call_target_name = "effect", has_side_effect = true}> : (tensor<4xf32>) -> ()
  return %a : tensor<4xf32>
}
func.func private @unused() {
  return
}
