#!/bin/sh
# Lint, formatting and types. Run scripts/setup.sh first.
set -eu
cd "$(dirname "$0")/.."
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
