#!/bin/sh
# Kill everything that writes, at random moments and amid its writing, and look at what is left: scripts/crash_test.sh
# --kills 200 [--only JOB]. See tests/crash/.
set -eu
cd "$(dirname "$0")/.."
OMP_NUM_THREADS=1 exec .venv/bin/python -m tests.crash "$@"
