#!/bin/sh
# Branch coverage of the packages by the fast tests, in a process for every core; fails below the floor in pyproject.toml.
set -eu
cd "$(dirname "$0")/.."
.venv/bin/coverage erase
.venv/bin/coverage run -m pytest -q -n "${PROCESSES:-auto}" --dist worksteal "$@"
.venv/bin/coverage combine -q
.venv/bin/coverage report --sort=cover --skip-covered
