#!/bin/sh
# What can only be seen on a machine with a GPU (one is enough; Python 3.12, torch 2.11 or later), in under 4 minutes, as
# one JSON file: scripts/check_cuda.sh [RESULT.json] [options of check_cuda.py]. Without a GPU it runs on the CPU and says so.
#   scripts/check_cuda.sh --bundle FILE.tar.gz [--small]
# packs what it needs for taking it there (at most 64 MiB; --small leaves out reference files of over 1 MiB). PYTHON
# chooses the interpreter; the project need not be installed.
set -eu
cd "$(dirname "$0")/.."
PYTHONPATH=".:benchmarks:scripts${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONPATH PYTHONUNBUFFERED=1
python=${PYTHON:-}
if [ -z "$python" ]; then
    python=python3
    if [ -x .venv/bin/python ]; then python=.venv/bin/python; fi
fi
exec "$python" scripts/check_cuda.py "$@"
