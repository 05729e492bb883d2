#!/usr/bin/env bash
# Set everything up, then train, prune and test a small detector on generated pictures: tools/quickstart.sh [arguments of quickstart.py]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=lib/common.sh
source tools/lib/common.sh

bash tools/setup_env.sh --extras demo
"$(env_dir "$PWD")/bin/python" tools/quickstart.py "$@"
