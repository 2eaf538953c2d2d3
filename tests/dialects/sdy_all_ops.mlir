sdy.mesh @mesh = <["x"=2, "y"=4, "z"=4]>
sdy.mesh @m2 = <["x"=2, "y"=2], device_ids=[3, 2, 1, 0]>
sdy.mesh @max = <[], device_ids=[5]>
sdy.mesh @empty = <[]>
func.func private @g(%a: tensor<8x16xf32>) -> tensor<8x16xf32> { return %a : tensor<8x16xf32> }
func.func @f(%a: tensor<8x16xf32> {sdy.sharding = #sdy.sharding<@mesh, [{"x"}p0, {"y":(1)2, ?}p1], replicated={"z"}>}, %b: tensor<16x8xf32>) -> (tensor<8x16xf32> {sdy.sharding = #sdy.sharding<mesh<["x"=2]>, [{"x"}, {?}]>}) {
  %0 = sdy.sharding_constraint %a <@mesh, [{"x", ?}, {}], unreduced={"y"}> : tensor<8x16xf32>
  %1 = sdy.reshard %0 <@mesh, [{"x"}, {"y"}]> : tensor<8x16xf32>
  sdy.sharding_group %1 group_id=21 : tensor<8x16xf32>
  %2 = sdy.propagation_barrier %1 allowed_direction=FORWARD : tensor<8x16xf32>
  %3 = sdy.propagation_barrier %1 allowed_direction=NONE : tensor<8x16xf32>
  %4 = sdy.named_computation<"foo">(%1) in_shardings=[<@mesh, [{"x"}, {}]>] out_shardings=[<@mesh, [{"y"}, {}]>] (%q: tensor<8x16xf32>) {
    sdy.return %q : tensor<8x16xf32>
  } : (tensor<8x16xf32>) -> tensor<8x16xf32>
  %50:2 = stablehlo.optimization_barrier %1, %1 : tensor<8x16xf32>, tensor<8x16xf32>
  %5 = sdy.data_flow_edge %50#0 : tensor<8x16xf32>
  %6 = sdy.data_flow_edge %50#1 sharding=<@mesh, [{"x"}, {?}]> : tensor<8x16xf32>
  %70 = sdy.func_data_flow_edge %b : tensor<16x8xf32>
  %7 = sdy.constant dense<1.0> : tensor<8x16xf32>
  %8 = sdy.manual_computation(%1) in_shardings=[<@mesh, [{"x"}, {?}]>] out_shardings=[<@mesh, [{"x"}, {?}]>] manual_axes={"x"} (%q: tensor<4x16xf32>) {
    sdy.return %q : tensor<4x16xf32>
  } : (tensor<8x16xf32>) -> tensor<8x16xf32>
  %9 = stablehlo.add %1, %2 {sdy.sharding = #sdy.sharding_per_value<[<@mesh, [{"x"}, {}]>]>} : tensor<8x16xf32>
  %10 = stablehlo.custom_call @foo(%1, %70) {sdy.sharding_rule = #sdy.op_sharding_rule<([ij, k], [k, l])->([ij, l]) {i=4, j=2, k=16, l=8} reduction={k} need_replication={i} permutation={j} blocked_propagation={i, j}, custom>} : (tensor<8x16xf32>, tensor<16x8xf32>) -> tensor<8x8xf32>
  return %9 : tensor<8x16xf32>
}
func.func @c(%a : tensor<16x8xf32> {sdy.sharding=#sdy.sharding<@mesh, [{"y"}, {}]>}, %u : tensor<16x8xf32> {sdy.sharding=#sdy.sharding<@mesh, [{}, {}], unreduced={"y"}>}) {
  %0 = sdy.all_gather [{"y":(2)2}, {}] %a out_sharding=<@mesh, [{"y":(1)2}, {}]> : tensor<16x8xf32>
  %1 = sdy.all_slice [{}, {"x"}] %a out_sharding=<@mesh, [{"y"}, {"x"}]> : tensor<16x8xf32>
  %2 = sdy.all_to_all [{"y"}: 0->1] %a out_sharding=<@mesh, [{}, {"y"}]> : tensor<16x8xf32>
  %3 = sdy.collective_permute %a out_sharding=<@mesh, [{"z"}, {}]> : tensor<16x8xf32>
  %4 = sdy.all_reduce {"x"} %a out_sharding=<@mesh, [{"y"}, {}]> : tensor<16x8xf32>
  %5 = sdy.reduce_scatter [{}, {"x"}] %a out_sharding=<@mesh, [{"y"}, {"x"}]> : tensor<16x8xf32>
  %6 = sdy.sharded_to_unreduced [{"y"}, {}] %a out_sharding=<@mesh, [{}, {}], unreduced={"y"}> : tensor<16x8xf32>
  %7 = sdy.replicated_to_unreduced {"x"} %a out_sharding=<@mesh, [{"y"}, {}], unreduced={"x"}> : tensor<16x8xf32>
  return
}
func.func @e(%arg0 : tensor<16x8xf32>) -> tensor<16x8xf32> {
  %0 = stablehlo.add %arg0, %arg0 {sdy.propagation_edges = #sdy.propagation_edges<[{step-2 = [{"y" = operand-1 -> [operand-0, result-0]}]}, {step-5 = [{"x" = result-0 -> [operand-0]}]}]>, sdy.sharding = #sdy.sharding_per_value<[<@mesh, [{"y"}, {"x" }]>]>} : tensor<16x8xf32>
  return %0 : tensor<16x8xf32>
}
