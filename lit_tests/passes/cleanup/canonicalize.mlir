// RUN: autopar-opt %s --canonicalize | filecheck %s

// x + 0 is x; what nobody uses is gone; effects stay.
// CHECK:      func.func @f(%[[A:.*]]: i32) -> i32
// CHECK-NEXT: stablehlo.custom_call @effect()
// CHECK-NEXT: return %[[A]] : i32

func.func @f(%a: i32) -> i32 {
  %zero = arith.constant 0 : i32
  %0 = arith.addi %a, %zero : i32
  %unused = "stablehlo.constant"() <{value = dense<1.0> : tensor<f32>}> : () -> tensor<f32>
  "stablehlo.custom_call"() <{call_target_name = "effect", has_side_effect = true}> : () -> ()
  return %0 : i32
}
