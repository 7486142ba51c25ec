#!/bin/sh
# Make .venv with this project and everything its tests need. PYTHON chooses the interpreter (3.10 or later).
set -eu
cd "$(dirname "$0")/.."
[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[all,dev]"
