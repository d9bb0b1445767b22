#!/usr/bin/env bash
# Renew the lock files from pyproject.toml: versions and hashes, no addresses. Needs `uv` on PATH.
set -euo pipefail
cd "$(dirname "$0")/.."
common=(--universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url --quiet)
uv pip compile pyproject.toml --group build "${common[@]}" -o requirements/runtime.lock
uv pip compile pyproject.toml --group build --group spark "${common[@]}" -o requirements/spark.lock
uv pip compile pyproject.toml --group build --group dev "${common[@]}" -o requirements/dev.lock
uv pip compile - --no-deps "${common[@]}" -o requirements/web.lock <<< "python-lightweight-charts==1.3.0"
