#!/bin/sh
# Sets everything up and runs all tests: lint, types, IR tests (lit), pytest.
# The shard dialect is judged by mlir-opt 22, which is installed where apt has it and may be used;
# without it those tests are skipped and say so.
set -eu
cd "$(dirname "$0")/.."
sh tools/setup.sh test,dev

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null 2>&1; then sudo -n "$@"; else return 1; fi
}

if ! command -v mlir-opt-22 >/dev/null 2>&1 && command -v apt-get >/dev/null 2>&1; then
    { as_root apt-get update -q && as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -q --no-install-recommends mlir-22-tools; } >/dev/null 2>&1 ||
        echo "mlir-opt-22 could not be installed: the tests that need it are skipped"
fi

. .venv/bin/activate
ruff check .
ruff format --check .
pyright
lit -q lit_tests
exec pytest -q -n 2 "$@"
