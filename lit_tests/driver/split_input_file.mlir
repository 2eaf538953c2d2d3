// A chunk that fails prints its error and nothing; the others are printed.
// RUN: not autopar-opt %s --split-input-file 2>/dev/null | filecheck %s

// CHECK: func.func @first
func.func @first() {
  return
}

// CHECK: // -----
// -----

func.func @second() -> tensor<f32> {
  return
}

// CHECK-NEXT: // -----
// -----

// CHECK: func.func @third
func.func @third() {
  return
}
