#!/usr/bin/env bash
# Start Tapewatch in the background and print the page's address.
#   ./start_pipeline.sh [--foreground] [--replay FILE [--speed 60]]
set -euo pipefail
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/scripts/environment.sh"
ensure_environment runtime
exec "$PYTHON" -m tapewatch run --detach "$@"
