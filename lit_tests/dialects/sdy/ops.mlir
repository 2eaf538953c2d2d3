// RUN: autopar-opt %s | filecheck %s
// RUN: autopar-opt %s | autopar-opt - | filecheck %s

// CHECK: sdy.mesh @mesh = <["x"=2, "y"=4, "z"=4]>
// CHECK: sdy.mesh @m2 = <["x"=2, "y"=2], device_ids=[3, 2, 1, 0]>
// CHECK: sdy.mesh @max = <[], device_ids=[5]>
// CHECK: %{{.*}}: tensor<8x16xf32> {sdy.sharding = #sdy.sharding<@mesh, [{"x"}p0, {"y":(1)2, ?}p1], replicated={"z"}>}
// CHECK: -> (tensor<8x16xf32> {sdy.sharding = #sdy.sharding<mesh<["x"=2]>, [{"x"}, {?}]>})
// CHECK: sdy.sharding_constraint %{{.*}} <@mesh, [{"x", ?}, {}], unreduced={"y"}> : tensor<8x16xf32>
// CHECK: sdy.reshard %{{.*}} <@mesh, [{"x"}, {"y"}]> : tensor<8x16xf32>
// CHECK: sdy.sharding_group %{{.*}} group_id=21 : tensor<8x16xf32>
// CHECK: sdy.propagation_barrier %{{.*}} allowed_direction=FORWARD : tensor<8x16xf32>
// CHECK: sdy.named_computation<"foo">(%{{.*}}) in_shardings=[<@mesh, [{"x"}, {}]>] out_shardings=[<@mesh, [{"y"}, {}]>] (%{{.*}}: tensor<8x16xf32>) {
// CHECK: sdy.data_flow_edge %{{.*}} sharding=<@mesh, [{"x"}, {?}]> : tensor<8x16xf32>
// CHECK: sdy.constant dense<1.000000e+00> : tensor<8x16xf32>
// CHECK: sdy.manual_computation(%{{.*}}) in_shardings=[<@mesh, [{"x"}, {?}]>] out_shardings=[<@mesh, [{"x"}, {?}]>] manual_axes={"x"} (%{{.*}}: tensor<4x16xf32>) {
// CHECK: sdy.all_gather [{"y":(2)2}, {}] %{{.*}} out_sharding=<@mesh, [{"y":(1)2}, {}]> : tensor<16x8xf32>
// CHECK: sdy.all_to_all [{"y"}: 0->1] %{{.*}} out_sharding=<@mesh, [{}, {"y"}]> : tensor<16x8xf32>
// CHECK: sdy.all_reduce {"x"} %{{.*}} out_sharding=<@mesh, [{"y"}, {}]> : tensor<16x8xf32>
sdy.mesh @mesh = <["x"=2, "y"=4, "z"=4]>
sdy.mesh @m2 = <["x"=2, "y"=2], device_ids=[3, 2, 1, 0]>
sdy.mesh @max = <[], device_ids=[5]>
func.func @f(%a: tensor<8x16xf32> {sdy.sharding = #sdy.sharding<@mesh, [{"x"}p0, {"y":(1)2, ?}p1], replicated={"z"}>}) -> (tensor<8x16xf32> {sdy.sharding = #sdy.sharding<mesh<["x"=2]>, [{"x"}, {?}]>}) {
  %0 = sdy.sharding_constraint %a <@mesh, [{"x", ?}, {}], unreduced={"y"}> : tensor<8x16xf32>
  %1 = sdy.reshard %0 <@mesh, [{"x"}, {"y"}]> : tensor<8x16xf32>
  sdy.sharding_group %1 group_id=21 : tensor<8x16xf32>
  %2 = sdy.propagation_barrier %1 allowed_direction=FORWARD : tensor<8x16xf32>
  %4 = sdy.named_computation<"foo">(%2) in_shardings=[<@mesh, [{"x"}, {}]>] out_shardings=[<@mesh, [{"y"}, {}]>] (%q: tensor<8x16xf32>) {
    sdy.return %q : tensor<8x16xf32>
  } : (tensor<8x16xf32>) -> tensor<8x16xf32>
  %5 = stablehlo.sine %4 : tensor<8x16xf32>
  %6 = sdy.data_flow_edge %5 sharding=<@mesh, [{"x"}, {?}]> : tensor<8x16xf32>
  %7 = sdy.constant dense<1.0> : tensor<8x16xf32>
  %8 = sdy.manual_computation(%6) in_shardings=[<@mesh, [{"x"}, {?}]>] out_shardings=[<@mesh, [{"x"}, {?}]>] manual_axes={"x"} (%q: tensor<4x16xf32>) {
    sdy.return %q : tensor<4x16xf32>
  } : (tensor<8x16xf32>) -> tensor<8x16xf32>
  return %8 : tensor<8x16xf32>
}
func.func @c(%a : tensor<16x8xf32> {sdy.sharding=#sdy.sharding<@mesh, [{"y"}, {}]>}) {
  %0 = sdy.all_gather [{"y":(2)2}, {}] %a out_sharding=<@mesh, [{"y":(1)2}, {}]> : tensor<16x8xf32>
  %2 = sdy.all_to_all [{"y"}: 0->1] %a out_sharding=<@mesh, [{}, {"y"}]> : tensor<16x8xf32>
  %4 = sdy.all_reduce {"x"} %a out_sharding=<@mesh, [{"y"}, {}]> : tensor<16x8xf32>
  return
}
