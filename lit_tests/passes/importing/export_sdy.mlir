// RUN: autopar-opt %s --export-sdy --split-input-file | filecheck %s
// RUN: autopar-opt %s --export-sdy --import-sdy --export-sdy --split-input-file | filecheck %s

// Sub-axes are merged, replicated and unreduced axes stand in mesh order, partial results of other
// kinds than sum cannot be said and are left out, as are strategies.

// CHECK:      sdy.mesh @mesh = <["x"=2, "y"=4], device_ids=[7, 6, 5, 4, 3, 2, 1, 0]> {jax.mesh = "keep"}
// CHECK-NOT:  shard.grid
// CHECK:      %{{.*}}: tensor<8x16xf32> {jax.keep = true, sdy.sharding = #sdy.sharding<@mesh, [{"y"}p0, {?}p1]>}
// CHECK-SAME: -> (tensor<8x16xf32> {sdy.sharding = #sdy.sharding<@mesh, [{}, {}], replicated={"x", "y"}>})
// CHECK-NEXT: %{{.*}} = sdy.sharding_constraint %{{.*}} <@mesh, [{"x"}, {}], unreduced={"y"}> : tensor<8x16xf32>
// CHECK-NEXT: %{{.*}} = "unknown.op"(%{{.*}}) {sdy.sharding = #sdy.sharding_per_value<[<@mesh, [{}, {}]>]>, unknown.x = 1 : i64}
// CHECK-NEXT: %{{.*}} = sdy.reshard %{{.*}} <@mesh, [{"x"}, {}]> : tensor<8x16xf32>
// CHECK-NEXT: %{{.*}} = stablehlo.sine
// CHECK-NEXT: %{{.*}} = sdy.data_flow_edge %{{.*}} sharding=<@mesh, [{"x"}, {?}]> : tensor<8x16xf32>
// CHECK-NEXT: %{{.*}} = sdy.manual_computation(%{{.*}}) in_shardings=[<@mesh, [{}, {}]>] out_shardings=[<@mesh, [{"x"}, {"y"}]>] manual_axes={}
// CHECK-NOT:  autopar
shard.grid @mesh(shape = 2x4) {axis_names = ["x", "y"], autopar.device_ids = array<i64: 7, 6, 5, 4, 3, 2, 1, 0>, jax.mesh = "keep"}
func.func @main(%a: tensor<8x16xf32> {jax.keep = true, autopar.sharding = #autopar.sharding<@mesh, [{"y":(1)2, "y":(2)2}p0, {?}p1]>})
    -> (tensor<8x16xf32> {autopar.sharding = #autopar.sharding<@mesh, [{}p2, {}], replicated={"y", "x"}>}) {
  %0 = autopar.constraint %a {sharding = #autopar.sharding<@mesh, [{"x"}, {}], partial={sum = ["y":(2)2, "y":(1)2]}>} : tensor<8x16xf32>
  %1 = "unknown.op"(%0) {unknown.x = 1, autopar.strategy = #autopar.strategy<[["x"], []]>, autopar.sharding = [#autopar.sharding<@mesh, [{}, {}], partial={max = ["y"]}>]} : (tensor<8x16xf32>) -> tensor<8x16xf32>
  %2 = autopar.reshard %1 {sharding = #autopar.sharding<@mesh, [{"x"}, {}]>} : tensor<8x16xf32>
  %u = stablehlo.sine %2 : tensor<8x16xf32>
  %3 = sdy.data_flow_edge %u {autopar.sharding = [#autopar.sharding<@mesh, [{"x"}, {?}]>]} : tensor<8x16xf32>
  %4 = sdy.manual_computation(%3) in_shardings=[<mesh<["x"=2, "y"=4]>, [{}, {}]>] out_shardings=[<mesh<["x"=2, "y"=4]>, [{}, {}]>] manual_axes={} (%q: tensor<8x16xf32>) {
    sdy.return %q : tensor<8x16xf32>
  } {autopar.sharding = [#autopar.sharding<@mesh, [{"x"}, {"y"}]>]} : (tensor<8x16xf32>) -> tensor<8x16xf32>
  return %4 : tensor<8x16xf32>
}

// -----

// Meshes come back under their names where the sharding can be said on them.

// CHECK:      sdy.mesh @mesh = <["x"=2, "y"=4]> {jax.keep}
// CHECK-NEXT: sdy.mesh @other = <["a"=4, "b"=2]>
// CHECK-NEXT: sdy.mesh @one = <[], device_ids=[3]>
// CHECK:      %{{.*}}: tensor<16x8xf32> {sdy.sharding = #sdy.sharding<@other, [{"a"}, {"b", ?}]>}
// CHECK-SAME: %{{.*}}: tensor<16x8xf32> {sdy.sharding = #sdy.sharding<@one, []>}
// CHECK-SAME: %{{.*}}: tensor<16x8xf32> {sdy.sharding = #sdy.sharding<@other, [{"a":(1)2}, {}]>}
shard.grid @mesh(shape = 2x4) {axis_names = ["x", "y"], autopar.meshes = [{name = "mesh", mesh = #sdy.mesh<["x"=2, "y"=4]>, jax.keep}, {name = "other", mesh = #sdy.mesh<["a"=4, "b"=2]>}, {name = "one", mesh = #sdy.mesh<[], device_ids=[3]>}]}
func.func @main(%a: tensor<16x8xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x", "y":(1)2}, {"y":(2)2, ?}]>, autopar.mesh = "other"},
                %b: tensor<16x8xf32> {autopar.sharding = #autopar.sharding<@mesh, [{}, {}]>, autopar.mesh = "one"},
                %c: tensor<16x8xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}, {}]>, autopar.mesh = "other"}) {
  return
}

// -----

// The op form is taken too.

// CHECK: sdy.mesh @mesh = <["0"=2, "1"=4]>
// CHECK: %{{.*}}: tensor<8x16xf32> {sdy.sharding = #sdy.sharding<@mesh, [{"0"}, {}], unreduced={"1"}>}
shard.grid @mesh(shape = 2x4)
func.func @main(%a: tensor<8x16xf32>) -> tensor<8x16xf32> {
  %s = shard.sharding @mesh split_axes = [[0]] {autopar.partial = "sum[1]"} : !shard.sharding
  %0 = shard.shard %a to %s : tensor<8x16xf32>
  %1 = "unknown.op"(%0) : (tensor<8x16xf32>) -> tensor<8x16xf32>
  return %1 : tensor<8x16xf32>
}
