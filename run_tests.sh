#!/usr/bin/env bash
# Set up and run the tests: all of them, the fast ones first; with `fast` only those (a minute).
#   ./run_tests.sh [fast|all] [arguments of pytest]
set -euo pipefail
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/scripts/environment.sh"
case "${1:-all}" in
  fast | all) part="${1:-all}" ;;
  *) echo "usage: ./run_tests.sh [fast|all] [arguments of pytest]" >&2; exit 2 ;;
esac
ensure_environment dev
if [ "$part" = all ]; then
  ensure_browser
  ensure_java
  ensure_prometheus
  ensure_node
fi
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
# Compiled tests and sources are kept for the workers, the second part and every process that a test starts.
unset PYTHONDONTWRITEBYTECODE
# The tests' folders are in memory where there is room: waiting for a disk proves nothing (`tests/log_faults.py` makes
# the power cuts), and is much of what the tests would do. A TMPDIR of your own is left as it is.
in_memory="" room_mb=0
if [ -z "${TMPDIR:-}" ] && [ -w /dev/shm ] && in_memory="$(mktemp -d /dev/shm/tests.XXXXXX)"; then
  chmod 755 "$in_memory"
  trap 'rm -rf "$in_memory"' EXIT
  printf '#!/bin/sh\n' > "$in_memory/runs" && chmod 755 "$in_memory/runs"
  if "$in_memory/runs" 2>/dev/null; then
    room_mb="$(df -Pm /dev/shm | awk 'NR == 2 { print $4 }')"
    free_mb="$(awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo)"
    if [ "$free_mb" -lt "$room_mb" ]; then room_mb="$free_mb"; fi
  fi
fi
status=0
has_run=no
# run_part ROOM_MB [arguments of pytest]
run_part() {
  local code=0
  local folder="${TMPDIR:-/tmp}"
  if [ "$room_mb" -ge "$1" ]; then folder="$in_memory"; fi
  TMPDIR="$folder" "$PYTHON" -m pytest -n 2 --dist loadfile --durations=15 --durations-min=1 "${@:2}" || code=$?
  if [ "$code" = 5 ]; then return 0; fi # no test that the arguments name is of this part
  has_run=yes
  if [ "$code" != 0 ]; then status=$code; fi
}
check_types() { exec 3< <("$PYTHON" -m mypy 2>&1 && echo "no wrong types"); }
if [ "$part" = fast ]; then check_types; fi
run_part 2000 -m "not slow" "${@:2}"
if [ "$part" = all ]; then
  check_types # beside the tests that often wait
  run_part 10000 -m slow --no-loadscope-reorder "${@:2}"
fi
if [ "$has_run" = no ]; then status=5; fi
types="$(cat <&3)"
if [ "${types##*$'\n'}" != "no wrong types" ]; then
  echo "$types" >&2
  status=1
fi
exit "$status"
