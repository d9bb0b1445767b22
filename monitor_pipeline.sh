#!/usr/bin/env bash
# One screen of the running pipeline; --watch shows it again every second, until Ctrl-C.
set -euo pipefail
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/scripts/environment.sh"
expect_environment
exec "$PYTHON" -m tapewatch status "$@"
