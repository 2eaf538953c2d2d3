#!/bin/sh
# Makes .venv with autopar and the given extras:  sh tools/setup.sh examples
# Needs Python >= 3.11; installs the venv module by apt where Debian left it out and apt may be used.
set -eu
cd "$(dirname "$0")/.."
extras="${1:-examples}"

python=""
for candidate in python3 python3.13 python3.12 python3.11; do
    if command -v "$candidate" >/dev/null 2>&1 &&
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python="$candidate"
        break
    fi
done
if [ -z "$python" ]; then
    echo "error: autopar needs Python >= 3.11 (apt-get install python3)" >&2
    exit 1
fi

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null 2>&1; then sudo -n "$@"; else return 1; fi
}

if [ ! -x .venv/bin/python ]; then
    if ! "$python" -m venv .venv 2>/dev/null; then
        rm -rf .venv
        echo "installing Python's venv module" >&2
        as_root apt-get update -q >/dev/null 2>&1 || true
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q python3-venv >/dev/null || {
            echo "error: python3 -m venv does not work here: apt-get install python3-venv" >&2
            exit 1
        }
        "$python" -m venv .venv
    fi
fi
# what was installed is noted, so that a second run costs nothing and needs no network
stamp=".venv/installed-$(echo "$extras" | tr , -)-$(cksum <pyproject.toml | tr -d ' ')"
if [ ! -e "$stamp" ]; then
    echo "installing autopar[$extras] into .venv (some minutes the first time)" >&2
    .venv/bin/python -m pip install -qq --upgrade pip
    .venv/bin/python -m pip install -qq -e ".[$extras]"
    touch "$stamp"
fi
