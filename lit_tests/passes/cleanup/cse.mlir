// RUN: autopar-opt %s --cse | filecheck %s

// Equal ops are merged; barriers and collectives with other channels stay apart.
// CHECK:      %[[S:.*]] = stablehlo.sine
// CHECK-NEXT: %[[B:.*]] = stablehlo.optimization_barrier
// CHECK-NEXT: %[[C:.*]] = stablehlo.optimization_barrier
// CHECK-NEXT: %[[G:.*]] = "stablehlo.all_gather"{{.*}}handle = 1
// CHECK-NEXT: %[[H:.*]] = "stablehlo.all_gather"{{.*}}handle = 2
// CHECK-NEXT: return %[[S]], %[[S]], %[[B]], %[[C]], %[[G]], %[[H]]

func.func @f(%a: tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>, tensor<4xf32>, tensor<4xf32>, tensor<8xf32>, tensor<8xf32>) {
  %0 = "stablehlo.sine"(%a) : (tensor<4xf32>) -> tensor<4xf32>
  %1 = "stablehlo.sine"(%a) : (tensor<4xf32>) -> tensor<4xf32>
  %2 = "stablehlo.optimization_barrier"(%a) : (tensor<4xf32>) -> tensor<4xf32>
  %3 = "stablehlo.optimization_barrier"(%a) : (tensor<4xf32>) -> tensor<4xf32>
  %4 = "stablehlo.all_gather"(%a) <{all_gather_dim = 0 : i64, channel_handle = #stablehlo.channel_handle<handle = 1, type = 1>, replica_groups = dense<[[0, 1]]> : tensor<1x2xi64>, use_global_device_ids}> : (tensor<4xf32>) -> tensor<8xf32>
  %5 = "stablehlo.all_gather"(%a) <{all_gather_dim = 0 : i64, channel_handle = #stablehlo.channel_handle<handle = 2, type = 1>, replica_groups = dense<[[0, 1]]> : tensor<1x2xi64>, use_global_device_ids}> : (tensor<4xf32>) -> tensor<8xf32>
  return %0, %1, %2, %3, %4, %5 : tensor<4xf32>, tensor<4xf32>, tensor<4xf32>, tensor<4xf32>, tensor<8xf32>, tensor<8xf32>
}
