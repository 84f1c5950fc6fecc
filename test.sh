#!/usr/bin/env bash
# Lint, check the formatting and the types, and run the tests, in a .venv that is made if need be.
#
#   ./test.sh            everything
#   ./test.sh -k loss    arguments go to pytest
#   ./test.sh --slow     and what takes minutes and is covered otherwise, too
#   ./test.sh --faults   inject all faults of tests/faults, within an hour, and write
#                        docs/reliability.md; ./test.sh injects a selection
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cd "$here"
. ./setup_venv.sh
# The tests' requirements include the commands': whoever runs both scripts keeps one
# environment.
setup_venv locked-dev.txt

if [ "${1:-}" = --faults ]; then
  shift
  echo '== pytest, every fault'
  FAULTS=all exec "$python" -m pytest -n auto --maxschedchunk 1 tests/faults --reliability "$@"
fi

echo '== ruff check'
"$python" -m ruff check .
echo '== ruff format --check'
"$python" -m ruff format --check .
echo '== mypy'
"$python" -m mypy
echo '== pytest, a process more than there are cores: some wait for others'
# By file: its tests share what is slow to make.
exec "$python" -m pytest -n "$(($(nproc) + 1))" --dist loadfile "$@"
