#!/bin/sh
# Branch coverage of the packages by the fast tests, least covered modules first. One process runs them all: what others
# write when they end would count against the limits on memory and disk that some tests set, and fail these.
set -eu
cd "$(dirname "$0")/.."
.venv/bin/coverage run -m pytest -q -p no:xdist "$@"
.venv/bin/coverage report --sort=cover --skip-covered
