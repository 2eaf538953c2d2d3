// RUN: not autopar-opt %s --no-such-pass 2>&1 | filecheck %s --check-prefix=PASS
// PASS: autopar-opt: error: unknown option or pass '--no-such-pass'
// RUN: not autopar-opt %s --cs 2>&1 | filecheck %s --check-prefix=NEAR
// NEAR: did you mean '--cse'?
// RUN: not autopar-opt %s --cse="depth=3" 2>&1 | filecheck %s --check-prefix=OPTION
// OPTION: autopar-opt: error: pass 'cse' has no option 'depth'; it has none
// RUN: not autopar-opt %s --shard-partition="gird=2x4" 2>&1 | filecheck %s --check-prefix=TYPO
// TYPO: autopar-opt: error: pass 'shard-partition' has no option 'gird'; did you mean 'grid'?
// RUN: not autopar-opt %s --optimize-collectives="small-bytes=many" 2>&1 | filecheck %s --check-prefix=VALUE
// VALUE: autopar-opt: error: option 'small-bytes' of pass 'optimize-collectives':
// RUN: not autopar-opt %s -p 'cse{' 2>&1 | filecheck %s --check-prefix=BRACE
// BRACE: autopar-opt: error: missing '}' in 'cse{'
// RUN: not autopar-opt %t.missing 2>&1 | filecheck %s --check-prefix=MISSING
// MISSING: autopar-opt: error: cannot read {{.*}}: No such file or directory
// RUN: autopar-opt --list-passes | filecheck %s --check-prefix=LIST
// LIST: --canonicalize
// LIST: --cse {{ *}}Merges operations
// RUN: autopar-opt --version | filecheck %s --check-prefix=VERSION
// VERSION: autopar-opt: autopar
// RUN: autopar-opt %s --cse --mlir-print-ir-after-all --timing 2>&1 >/dev/null | filecheck %s --check-prefix=DUMP
// DUMP: IR Dump After Cse (cse)
// DUMP: execution time report
// RUN: autopar-opt %s --optimize-collectives="small-bytes=1e6" -o %t.mlir && autopar-opt %t.mlir | filecheck %s
// CHECK: func.func @f
func.func @f() {
  return
}
