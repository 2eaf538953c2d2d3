// RUN: autopar-opt %s --import-sdy --split-input-file | filecheck %s

// Arguments, results, op results, constraints, reshards, collectives; what is unknown stays.

// CHECK:      shard.grid @mesh(shape = 2x4) {axis_names = ["x", "y"], jax.mesh = "keep"}
// CHECK-NOT:  sdy.mesh
// CHECK:      func.func public @main(%{{.*}}: tensor<8x16xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}p0, {"y":(1)2, ?}p1]>, jax.keep = true},
// CHECK-SAME: %{{.*}}: tensor<8x16xf32>)
// CHECK-SAME: -> (tensor<8x16xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}, {?}], replicated={"y"}>, jax.result_info = "r"})
// CHECK-NEXT: %{{.*}} = autopar.constraint %{{.*}} {sharding = #autopar.sharding<@mesh, [{"x", ?}, {}], partial={sum = ["y"]}>} : tensor<8x16xf32>
// CHECK-NEXT: %{{.*}} = autopar.reshard %{{.*}} {jax.keep, sharding = #autopar.sharding<@mesh, [{}, {"x"}]>} : tensor<8x16xf32>
// CHECK-NEXT: sdy.sharding_group %{{.*}} group_id=21 : tensor<8x16xf32>
// CHECK-NEXT: %{{.*}} = sdy.propagation_barrier %{{.*}} allowed_direction=FORWARD : tensor<8x16xf32>
// CHECK-NEXT: %{{.*}} = stablehlo.sine
// CHECK-NEXT: %{{.*}} = sdy.data_flow_edge %{{.*}} {autopar.sharding = [#autopar.sharding<@mesh, [{"x"}, {?}]>]} : tensor<8x16xf32>
// CHECK-NEXT: %{{.*}} = sdy.manual_computation(%{{.*}}) in_shardings=[<mesh<["x"=2, "y"=4]>, [{"x"}, {?}]>] out_shardings=[<mesh<["x"=2, "y"=4]>, [{"x"}, {}]>] manual_axes={"x"}
// CHECK:      } {autopar.sharding = [#autopar.sharding<@mesh, [{"x"}, {}]>]} :
// CHECK-NEXT: %{{.*}} = "unknown.op"(%{{.*}}) {autopar.sharding = [#autopar.sharding<@mesh, [{"x"}, {"y"}]>], unknown.x = 1 : i64}
// CHECK-NEXT: %{{.*}} = autopar.reshard %{{.*}} {sharding = #autopar.sharding<@mesh, [{"x"}, {}]>} : tensor<8x16xf32>
sdy.mesh @mesh = <["x"=2, "y"=4]> {jax.mesh = "keep"}
func.func public @main(%a: tensor<8x16xf32> {sdy.sharding = #sdy.sharding<@mesh, [{"x"}p0, {"y":(1)2, ?}p1]>, jax.keep = true}, %b: tensor<8x16xf32>)
    -> (tensor<8x16xf32> {jax.result_info = "r", sdy.sharding = #sdy.sharding<@mesh, [{"x"}, {?}], replicated={"y"}>}) {
  %0 = sdy.sharding_constraint %a <@mesh, [{"x", ?}, {}], unreduced={"y"}> : tensor<8x16xf32>
  %1 = sdy.reshard %0 <@mesh, [{}, {"x"}]> {jax.keep} : tensor<8x16xf32>
  sdy.sharding_group %1 group_id=21 : tensor<8x16xf32>
  %2 = sdy.propagation_barrier %1 allowed_direction=FORWARD : tensor<8x16xf32>
  %u = stablehlo.sine %2 : tensor<8x16xf32>
  %3 = sdy.data_flow_edge %u sharding=<@mesh, [{"x"}, {?}]> : tensor<8x16xf32>
  %4 = sdy.manual_computation(%3) in_shardings=[<@mesh, [{"x"}, {?}]>] out_shardings=[<@mesh, [{"x"}, {}]>] manual_axes={"x"} (%q: tensor<4x16xf32>) {
    sdy.return %q : tensor<4x16xf32>
  } : (tensor<8x16xf32>) -> tensor<8x16xf32>
  %5 = "unknown.op"(%4) {sdy.sharding = #sdy.sharding_per_value<[<@mesh, [{"x"}, {"y"}]>]>, unknown.x = 1} : (tensor<8x16xf32>) -> tensor<8x16xf32>
  %6 = sdy.all_gather [{}, {"y"}] %5 out_sharding=<@mesh, [{"x"}, {}]> : tensor<8x16xf32>
  return %6 : tensor<8x16xf32>
}

// -----

// Several meshes over the same devices: one grid, the finest; an axis of the others is written in
// its (sub-)axes. Maximal meshes mean replicated.

// CHECK:      shard.grid @mesh(shape = 2x4) {autopar.meshes = [{mesh = #sdy.mesh<["x"=2, "y"=4]>, name = "mesh"},
// CHECK-SAME: {mesh = #sdy.mesh<["a"=4, "b"=2]>, name = "other"}, {mesh = #sdy.mesh<[], device_ids=[3]>, name = "one"}, {mesh = #sdy.mesh<["u"=8]>, name = "mesh_0"}], axis_names = ["x", "y"]}
// CHECK:      %{{.*}}: tensor<16x8xf32> {autopar.mesh = "other", autopar.sharding = #autopar.sharding<@mesh, [{"x", "y":(1)2}, {"y":(2)2}]>}
// CHECK-SAME: %{{.*}}: tensor<16x8xf32> {autopar.mesh = "one", autopar.sharding = #autopar.sharding<@mesh, [{}, {}]>}
// CHECK-SAME: %{{.*}}: tensor<16x8xf32> {autopar.mesh = "mesh_0", autopar.sharding = #autopar.sharding<@mesh, [{"x", "y"}, {}]>}
// CHECK-SAME: %{{.*}}: tensor<16x8xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"y"}, {"x"}]>}
sdy.mesh @mesh = <["x"=2, "y"=4]>
sdy.mesh @other = <["a"=4, "b"=2]>
sdy.mesh @one = <[], device_ids=[3]>
func.func @main(%a: tensor<16x8xf32> {sdy.sharding = #sdy.sharding<@other, [{"a"}, {"b"}]>},
                %b: tensor<16x8xf32> {sdy.sharding = #sdy.sharding<@one, []>},
                %c: tensor<16x8xf32> {sdy.sharding = #sdy.sharding<mesh<["u"=8]>, [{"u"}, {}]>},
                %d: tensor<16x8xf32> {sdy.sharding = #sdy.sharding<@mesh, [{"y"}, {"x"}]>}) {
  return
}

// -----

// Shardy's copies of constants are constants.

// CHECK: stablehlo.constant {autopar.sharding = [#autopar.sharding<@mesh, [{"x"}]>]} dense<1.000000e+00> : tensor<4xf32>
sdy.mesh @mesh = <["x"=4]>
func.func @main() -> tensor<4xf32> {
  %0 = sdy.constant {sdy.sharding = #sdy.sharding_per_value<[<@mesh, [{"x"}]>]>} dense<1.0> : tensor<4xf32>
  return %0 : tensor<4xf32>
}

// -----

// device_ids are kept as they are.

// CHECK: shard.grid @mesh(shape = 4) {autopar.device_ids = array<i64: 3, 2, 1, 0>, axis_names = ["x"]}
sdy.mesh @mesh = <["x"=4], device_ids=[3, 2, 1, 0]>

// -----

// Nothing but a maximal mesh: a grid of one device.

// CHECK: shard.grid @one(shape = 1)
// CHECK: autopar.sharding = #autopar.sharding<@one, [{}]>
sdy.mesh @one = <[], device_ids=[0]>
func.func @main(%a: tensor<4xf32> {sdy.sharding = #sdy.sharding<@one, []>}) {
  return
}

// -----

// Without sdy nothing changes.

// CHECK:      module {
// CHECK-NEXT:   func.func @main(%{{.*}}: tensor<4xf32>) {
// CHECK-NEXT:     return
func.func @main(%a: tensor<4xf32>) {
  return
}
