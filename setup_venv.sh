# Sourced by demo.sh and test.sh: make .venv beside this file and install into it what
# the locked file named in the argument lists: these versions, each file of the sum that
# is listed, and nothing that has to be built. Does nothing, offline, when that is
# already done. Sets $python.

require_python() {
  if ! command -v "$1" >/dev/null; then
    echo "$0: error: no $1 here; install Python 3.11, 3.12 or 3.13 with its venv module" >&2
    exit 1
  fi
  if ! "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'; then
    echo "$0: error: $("$1" --version) found, 3.11 to 3.13 expected;" \
      'name another with PYTHON=python3.12' "$0" >&2
    exit 1
  fi
}

setup_venv() {
  local venv="$here/.venv" wanted stamp
  python="$venv/bin/python"
  stamp="$venv/installed-$1"
  wanted=$(cksum < "$here/$1")
  if [ -x "$python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    echo "== $venv is ready"
    return
  fi
  require_python "${PYTHON:-python3}"
  echo "== making $venv and installing the pinned requirements (about 2 GB, minutes)"
  if [ ! -x "$python" ] && ! "${PYTHON:-python3}" -m venv "$venv"; then
    rm -rf "$venv"
    echo "$0: error: cannot make $venv; on Debian and Ubuntu: apt install python3-venv" >&2
    exit 1
  fi
  "$python" -m pip install --quiet --disable-pip-version-check \
    --require-hashes --only-binary :all: -r "$here/$1"
  echo "$wanted" > "$stamp"
}
