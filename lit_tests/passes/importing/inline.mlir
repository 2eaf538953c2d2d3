// RUN: autopar-opt %s --inline --mlir-print-debuginfo | filecheck %s

// Names of helpers are relative: the call's name stands in front; file positions are the op's own,
// or the call's where the op has none.
// @rec is recursive, @kept is referred to by another op than a call, @unused by nobody.

// CHECK-LABEL: func.func public @main
// CHECK-NEXT:  "stablehlo.case"
// CHECK-NEXT:    stablehlo.sine %{{.*}} : tensor<4xf32> loc(#[[INNER:.*]])
// CHECK-NEXT:    stablehlo.return
// CHECK-NEXT:  }) : (tensor<i32>) -> tensor<4xf32> loc(#[[CASE:.*]])
// CHECK-NEXT:  stablehlo.sine %{{.*}} : tensor<4xf32> loc(#[[OUTER:.*]])
// CHECK-NEXT:  call @rec
// CHECK-NEXT:  stablehlo.composite "x.y" %{{.*}} {decomposition = @kept}
// CHECK-NEXT:  autopar.constraint %{{.*}} {sharding = #autopar.sharding<@mesh, [{"x"}]>}
// CHECK-NEXT:  stablehlo.cosine
// CHECK-NEXT:  stablehlo.negate %{{.*}} : tensor<4xf32> loc(#[[BARE:.*]])
// CHECK-NEXT:  return
// CHECK-NOT:   @g(
// CHECK-NOT:   @h(
// CHECK-NOT:   @unused
// CHECK:       func.func private @kept
// CHECK:       func.func private @rec
// CHECK-DAG:   #[[PLACE:.*]] = loc("f.py":7:2)
// CHECK-DAG:   #[[BARE]] = loc("jit(step)/jit(n)/neg"(#[[PLACE]]))
// CHECK-DAG:   #[[CASE]] = loc("jit(step)/jit(g)/case"(#{{.*}}))
// CHECK-DAG:   #[[INNER]] = loc("jit(step)/jit(g)/body/sin"(#{{.*}}))
// CHECK-DAG:   #[[OUTER]] = loc("jit(step)/jit(h)/sin"(#{{.*}}))
shard.grid @mesh(shape = 2) {axis_names = ["x"]}
func.func public @main(%a: tensor<4xf32>, %i: tensor<i32>) -> tensor<4xf32> {
  %0 = func.call @g(%a, %i) : (tensor<4xf32>, tensor<i32>) -> tensor<4xf32> loc("jit(step)/jit(g)"("f.py":1:2))
  %1 = func.call @h(%0) : (tensor<4xf32>) -> tensor<4xf32> loc("jit(step)/jit(h)"("f.py":2:2))
  %2 = func.call @rec(%1) : (tensor<4xf32>) -> tensor<4xf32>
  %3 = "stablehlo.composite"(%2) <{decomposition = @kept, name = "x.y"}> : (tensor<4xf32>) -> tensor<4xf32>
  %4 = func.call @kept(%3) : (tensor<4xf32>) -> tensor<4xf32>
  %5 = func.call @n(%4) : (tensor<4xf32>) -> tensor<4xf32> loc("jit(step)/jit(n)"("f.py":7:2))
  return %5 : tensor<4xf32>
}
func.func private @n(%a: tensor<4xf32>) -> tensor<4xf32> {
  %0 = "stablehlo.negate"(%a) : (tensor<4xf32>) -> tensor<4xf32> loc("neg")
  return %0 : tensor<4xf32>
}
func.func private @g(%a: tensor<4xf32>, %i: tensor<i32>) -> tensor<4xf32> {
  %0 = "stablehlo.case"(%i) ({
    %1 = func.call @h(%a) : (tensor<4xf32>) -> tensor<4xf32> loc("body"("g.py":3:3))
    "stablehlo.return"(%1) : (tensor<4xf32>) -> ()
  }) : (tensor<i32>) -> tensor<4xf32> loc("case"("g.py":4:3))
  return %0 : tensor<4xf32>
}
func.func private @h(%a: tensor<4xf32>) -> tensor<4xf32> {
  %0 = "stablehlo.sine"(%a) : (tensor<4xf32>) -> tensor<4xf32> loc("sin"("h.py":5:5))
  return %0 : tensor<4xf32>
}
func.func private @kept(%a: tensor<4xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}]>}) -> tensor<4xf32> {
  %0 = "stablehlo.cosine"(%a) : (tensor<4xf32>) -> tensor<4xf32>
  return %0 : tensor<4xf32>
}
func.func private @rec(%a: tensor<4xf32>) -> tensor<4xf32> {
  %0 = func.call @rec(%a) : (tensor<4xf32>) -> tensor<4xf32>
  return %0 : tensor<4xf32>
}
func.func private @unused(%a: tensor<4xf32>) -> tensor<4xf32> {
  return %a : tensor<4xf32>
}
