#!/usr/bin/env bash
# Set everything up, lint, and run all tests, the slow ones too: tools/run_tests.sh [arguments of pytest]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=lib/common.sh
source tools/lib/common.sh

bash tools/setup_env.sh --extras test,onnx
python=$(env_dir "$PWD")/bin/python
"$python" -m ruff check .
"$python" -m ruff format --check .
"$python" -m codespell_lib ./*.md docs configs mmpsbn tools tests
# A worker a core; each test has one thread. What a module's fixtures train, its own worker trains.
"$python" -m pytest -q -m "" -n auto --dist loadfile "$@"
