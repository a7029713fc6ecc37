#!/usr/bin/env bash
# Make .venv from the hash-pinned lock; safe to run again, and two at once wait for each other.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "error: Shardline needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" >&2
    exit 1
}
exec 9>.venv.lock
flock 9
echo "making .venv from envs/requirements.lock (about two minutes the first time)"
[ -x .venv/bin/python ] || "$python" -m venv .venv
[ -x .venv/bin/uv ] || .venv/bin/python -m pip install --quiet --disable-pip-version-check \
    --require-hashes -r envs/bootstrap.lock
# Without compiled bytecode a torch and transformers process spends twice the time importing.
unset PYTHONDONTWRITEBYTECODE
.venv/bin/uv pip sync --quiet --python .venv/bin/python --require-hashes --compile-bytecode \
    envs/requirements.lock
.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation -e .
touch .venv/.lock
