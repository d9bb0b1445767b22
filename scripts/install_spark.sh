#!/usr/bin/env bash
# Add Spark to the environment (some 700 MB), for `tapewatch cluster`, `spark` and `parity`.
set -euo pipefail
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
ensure_environment spark
