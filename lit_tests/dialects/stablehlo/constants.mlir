// Constants keep their bits through our own reader and jaxlib's.
// RUN: autopar-opt %s --cse | autopar-opt | filecheck %s
// RUN: autopar-opt %s --mlir-print-op-generic | filecheck %s --check-prefix=GENERIC

func.func @main() -> (tensor<4xf32>, tensor<2xbf16>, tensor<3xi4>, tensor<2xf8E4M3FN>, tensor<2xcomplex<f32>>, tensor<2xi1>, tensor<2x2xui8>, tensor<0xf32>, tensor<f64>) {
  // CHECK: stablehlo.constant dense<[0xFF800000, 0x7FC00001, -0.000000e+00, 1.401300e-45]> : tensor<4xf32>
  // GENERIC: "stablehlo.constant"() <{value = dense<[0xFF800000, 0x7FC00001, -0.000000e+00, 
  %0 = stablehlo.constant dense<[0xFF800000, 0x7FC00001, -0.0, 0x00000001]> : tensor<4xf32>
  // CHECK: dense<[0x7F80, 1.500000e+00]> : tensor<2xbf16>
  %1 = stablehlo.constant dense<[0x7F80, 1.5]> : tensor<2xbf16>
  // CHECK: dense<[1, -2, 7]> : tensor<3xi4>
  %2 = stablehlo.constant dense<[1, -2, 7]> : tensor<3xi4>
  // CHECK: dense<[1.000000e+00, 0x7F]> : tensor<2xf8E4M3FN>
  %3 = stablehlo.constant dense<[1.0, 0x7F]> : tensor<2xf8E4M3FN>
  // CHECK: dense<[(1.000000e+00,2.000000e+00), (0x7F800000,2.000000e+00)]> : tensor<2xcomplex<f32>>
  %4 = stablehlo.constant dense<[(1.0,2.0),(0x7F800000,2.0)]> : tensor<2xcomplex<f32>>
  // CHECK: dense<[true, false]> : tensor<2xi1>
  %5 = stablehlo.constant dense<[true, false]> : tensor<2xi1>
  // CHECK: dense<255> : tensor<2x2xui8>
  %6 = stablehlo.constant dense<255> : tensor<2x2xui8>
  // CHECK: dense<> : tensor<0xf32>
  %7 = stablehlo.constant dense<> : tensor<0xf32>
  // CHECK: dense<1.000000e-300> : tensor<f64>
  %8 = stablehlo.constant dense<1.0e-300> : tensor<f64>
  return %0, %1, %2, %3, %4, %5, %6, %7, %8 : tensor<4xf32>, tensor<2xbf16>, tensor<3xi4>, tensor<2xf8E4M3FN>, tensor<2xcomplex<f32>>, tensor<2xi1>, tensor<2x2xui8>, tensor<0xf32>, tensor<f64>
}
