# Sourced by the scripts of this folder's parent: goes to that folder and makes `.venv` from the hash-locked
# requirements, once. Afterwards $PYTHON is the environment's interpreter. Needs nothing but python3 (3.11 or newer).

# Arguments that name files are meant from where the caller is.
export TAPEWATCH_CALLED_FROM="$PWD"
cd -P "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON="$PWD/.venv/bin/python"

is_new_enough() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
  local candidate
  if [ -n "${TAPEWATCH_PYTHON:-}" ]; then
    if is_new_enough "$TAPEWATCH_PYTHON"; then echo "$TAPEWATCH_PYTHON"; return 0; fi
    echo "TAPEWATCH_PYTHON=$TAPEWATCH_PYTHON is not a Python of version 3.11 or newer." >&2
    return 1
  fi
  for candidate in python3 python3.13 python3.12 python3.11; do
    if is_new_enough "$candidate"; then echo "$candidate"; return 0; fi
  done
  echo "Tapewatch needs Python 3.11 or newer, and none was found on PATH." \
    "Install one, or name it: TAPEWATCH_PYTHON=/path/to/python3 ./start_pipeline.sh" >&2
  return 1
}

# What an installation is made of; a change of any makes a new one necessary. Empty when there is no environment.
fingerprint() {
  local version
  version="$("$PYTHON" -c 'import sys; print(*sys.version_info[:2], sys.base_prefix)' 2>/dev/null)" || return 0
  echo "$1 $version $PWD $(cat "requirements/$1.lock" requirements/web.lock pyproject.toml | cksum)"
}

# is_installed runtime|spark|dev: dev holds all that spark needs, and spark all that runtime needs.
is_installed() {
  local stamp kind
  [ -f .venv/tapewatch.stamp ] && stamp="$(cat .venv/tapewatch.stamp)" && [ -n "$stamp" ] || return 1
  if [ -n "${TAPEWATCH_PYTHON:-}" ] && ! is_wanted_python; then return 1; fi
  for kind in dev spark runtime; do
    if [ "$stamp" = "$(fingerprint "$kind")" ]; then return 0; fi
    if [ "$kind" = "$1" ]; then return 1; fi
  done
  return 1
}

# Whether .venv was made from the Python that TAPEWATCH_PYTHON names.
is_wanted_python() {
  local code='import sys; print(sys.version_info[:2], sys.base_prefix)'
  [ "$("$TAPEWATCH_PYTHON" -c "$code" 2>&1)" = "$("$PYTHON" -c "$code" 2>&1)" ]
}

# ensure_environment runtime|spark|dev: installs only what is missing or has changed. Ends the script when it cannot.
ensure_environment() {
  if is_installed "$1" && { is_compiled || [ ! -w .venv ]; }; then return 0; fi
  if [ ! -w . ] || { [ -e .venv ] && [ ! -w .venv ]; }; then
    echo "$PWD must be set up first, but it belongs to another user: run this as its owner, or clone it anew." >&2
    exit 6
  fi
  (
    # Two that start together: the second waits, and then finds everything there.
    if command -v flock >/dev/null 2>&1; then flock 9; fi
    if ! is_installed "$1"; then install_environment "$1" || exit 6; fi
    is_compiled || compile_ahead
  ) 9>.setup.lock || exit 6
}

is_compiled() {
  [ "$(cat .venv/compiled.stamp 2>/dev/null)" = "$(sources)" ]
}

# The number that stands for the compiled sources.
sources() {
  find src/tapewatch -name __pycache__ -prune -o -name '*.py' -exec cat {} + | cksum
}

compile_ahead() {
  echo "Compiling (once, a minute or two) ..." >&2
  if "$PYTHON" -m tapewatch.warm >/dev/null; then
    sources > .venv/compiled.stamp
  else
    echo "That did not work, for the reason above; it is compiled at the start instead, which then takes longer." >&2
  fi
}

# For what only looks at a pipeline or stops one: the environment as it is, even when it could be renewed.
expect_environment() {
  if [ -f .venv/tapewatch.stamp ]; then return 0; fi
  echo "Tapewatch is not set up in $PWD, so nothing runs here; ./start_pipeline.sh sets it up and starts it." >&2
  exit 3
}

install_environment() {
  local base said kind="$1" size="a minute or so; it downloads some 150 MB"
  if [ "$kind" != runtime ]; then size="a few minutes; it downloads some 700 MB, most of it Spark"; fi
  echo "Setting up .venv (once, $size) ..." >&2
  rm -f .venv/tapewatch.stamp
  if ! "$PYTHON" -c 'import pip' >/dev/null 2>&1 || { [ -n "${TAPEWATCH_PYTHON:-}" ] && ! is_wanted_python; }; then
    base="$(find_python)" || return 6
    rm -rf .venv
    if ! said="$("$base" -m venv .venv 2>&1)"; then
      rm -rf .venv
      echo "$said" >&2
      echo ".venv could not be made, for the reason above; where ensurepip is missing: apt-get install python3-venv" >&2
      return 6
    fi
  fi
  # The page's chart library travels in a wheel whose own dependencies are not wanted.
  if ! { install_packages --require-hashes -r "requirements/$kind.lock" &&
    install_packages --require-hashes --no-deps -r requirements/web.lock &&
    install_packages --no-deps --no-build-isolation -e .; }; then
    echo "The packages could not be installed, for the reason above; run the same command again to go on." >&2
    return 6
  fi
  fingerprint "$kind" > .venv/tapewatch.stamp
}

install_packages() {
  "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-input "$@"
}

# ensure_packages WHAT_FOR COMMANDS PACKAGES [OPTIONS]: Debian's packages, unless the commands are there. For tests alone.
ensure_packages() {
  local command missing=""
  for command in $2; do command -v "$command" >/dev/null 2>&1 || missing=yes; done
  if [ -z "$missing" ]; then return 0; fi
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing $3 for $1 ..." >&2
    # shellcheck disable=SC2086 # several packages are several words
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq ${4:-} $3 >/dev/null
  else
    echo "$1 need $2: apt-get install $3 (as root)" >&2
    exit 6
  fi
}

ensure_browser() { ensure_packages "the browser tests" chromium chromium; }
ensure_java() { ensure_packages "the tests with Kafka and Spark (Java 17 or newer)" "java mvn" "default-jre-headless maven"; }
ensure_prometheus() { ensure_packages "the tests of metrics and dashboards" "prometheus promtool" prometheus --no-install-recommends; }
ensure_node() { ensure_packages "the tests with the official JavaScript client" "node npm" "nodejs npm" --no-install-recommends; }
