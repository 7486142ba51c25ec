#!/bin/sh
# Branch coverage of the packages by the fast tests, least covered modules first; less than the floor is a failure, unless
# arguments choose among the tests. One process runs them all: what others write when they end would count against the
# limits on memory and disk that some tests set, and fail these.
set -eu
# In percent. All fast tests take 95, what runs in processes that they start not counted.
floor=94
cd "$(dirname "$0")/.."
.venv/bin/coverage run -m pytest -q -p no:xdist "$@"
[ $# -eq 0 ] || floor=0
.venv/bin/coverage report --sort=cover --skip-covered --fail-under="$floor"
