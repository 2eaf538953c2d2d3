#!/bin/sh
# Sets everything up and runs all tests: lint, types, IR tests (lit), pytest.
# The shard dialect is judged by mlir-opt 22, which is installed where apt has it and may be used;
# without it those tests are skipped and say so. So it is with the browser that opens autopar view's
# page.
set -eu
cd "$(dirname "$0")/.."
sh tools/setup.sh test,dev

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null 2>&1; then sudo -n "$@"; else return 1; fi
}

missing=""
command -v mlir-opt-22 >/dev/null 2>&1 || missing="mlir-22-tools"
command -v chromium-headless-shell >/dev/null 2>&1 || command -v chromium >/dev/null 2>&1 ||
    missing="$missing chromium-headless-shell"
if [ -n "$missing" ] && command -v apt-get >/dev/null 2>&1; then
    as_root apt-get update -q >/dev/null 2>&1 || true
    for package in $missing; do  # one by one: not every system has them all
        as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -q --no-install-recommends "$package" >/dev/null 2>&1 ||
            echo "$package could not be installed: the tests that need it are skipped"
    done
fi

. .venv/bin/activate
ruff check .
ruff format --check .
pyright
lit -q lit_tests
exec pytest -q -n 2 "$@"
