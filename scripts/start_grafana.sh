#!/usr/bin/env bash
# Start Grafana with Tapewatch's dashboards and alert rules, on this machine alone (docs/grafana.md).
#   scripts/start_grafana.sh [--port 3000] [--render]
set -euo pipefail
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
ensure_environment runtime
export PYTHONPATH="$PWD/deploy${PYTHONPATH:+:$PYTHONPATH}"
exec "$PYTHON" -m grafana.provision "$@"
