// RUN: autopar-opt %s --insert-reshards --verify-diagnostics | filecheck %s

// The minor of two dimensions that are merged cannot be kept; the major one can.

shard.grid @mesh(shape = 8) {axis_names = ["x"]}

// CHECK-LABEL: func.func @merged
func.func @merged(%a: tensor<16x32x64xf32> {autopar.sharding = #autopar.sharding<@mesh, [{}, {"x"}, {}]>}) -> tensor<512x64xf32> {
  // expected-remark @+2 {{'stablehlo.reshape' cannot keep dimension 1 of operand 0 sharded: it is gathered (114752 bytes a device)}}
  // CHECK: autopar.reshard %{{.*}} [{}, {}, {}]
  %0 = stablehlo.reshape %a : (tensor<16x32x64xf32>) -> tensor<512x64xf32>
  return %0 : tensor<512x64xf32>
}

// CHECK-LABEL: func.func @major
// CHECK-NOT: autopar.reshard
func.func @major(%a: tensor<16x32x64xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}, {}, {}]>}) -> tensor<512x64xf32> {
  %0 = stablehlo.reshape %a {autopar.sharding = [#autopar.sharding<@mesh, [{"x"}, {}]>]} : (tensor<16x32x64xf32>) -> tensor<512x64xf32>
  return %0 : tensor<512x64xf32>
}

// What another place wants gathered is no remark: the op could keep it.

// CHECK-LABEL: func.func @wanted_whole
// CHECK: autopar.reshard
func.func @wanted_whole(%a: tensor<16x64xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}, {}]>}) -> (tensor<16x64xf32> {autopar.sharding = #autopar.sharding<@mesh, [{}, {}]>}) {
  %0 = stablehlo.tanh %a : tensor<16x64xf32>
  return %0 : tensor<16x64xf32>
}
