#!/bin/sh
# Sets everything up and runs the main job: trains a small GPT on eight virtual devices.
# Further arguments go to the example:  sh tools/demo.sh --method zero3 --mesh 8
set -eu
root="$(cd "$(dirname "$0")/.." && pwd)"
sh "$root/tools/setup.sh" examples
exec "$root/.venv/bin/python" "$root/examples/train_gpt.py" "$@"
