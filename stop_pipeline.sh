#!/usr/bin/env bash
# Stop Tapewatch: everything that was started here, also what a killed pipeline has left.
set -euo pipefail
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/scripts/environment.sh"
expect_environment
exec "$PYTHON" -m tapewatch stop "$@"
