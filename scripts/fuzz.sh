#!/bin/sh
# Feed every reader with damaged files for a while: scripts/fuzz.sh 10m. Needs nothing but the test environment; where
# atheris is installed, --atheris TARGET lets it choose the damage. See tests/fuzz/.
set -eu
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || { echo "usage: scripts/fuzz.sh 10m [--only TARGET] [--first NUMBER] [--atheris TARGET]" >&2; exit 2; }
case "$1" in
    *h) seconds=$((${1%h} * 3600)) ;;
    *m) seconds=$((${1%m} * 60)) ;;
    *s) seconds=${1%s} ;;
    *) seconds=$1 ;;
esac
shift
OMP_NUM_THREADS=1 exec .venv/bin/python -m tests.fuzz "$seconds" "$@"
