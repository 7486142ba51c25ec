#!/bin/sh
# Make .venv with this project and everything its tests need. PYTHON chooses the interpreter (3.10 or later).
set -eu
cd "$(dirname "$0")/.."
[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[all,dev]"
# An editable install compiles nothing: without this each process does so itself where Python may not write beside files.
.venv/bin/python -m compileall -q caffe_compat converters hpm caffe_compat_pytest.py
