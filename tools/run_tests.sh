#!/usr/bin/env bash
# Set everything up, then lint and run all tests, the slow ones too: tools/run_tests.sh [arguments of pytest]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=setup/common.sh
source tools/setup/common.sh

bash tools/setup_env.sh --extras test,onnx
python=$(ready_python "$PWD")
"$python" -m ruff check .
"$python" -m pytest -q -m "" "$@"
