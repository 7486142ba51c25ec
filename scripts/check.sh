#!/bin/sh
# Lint, formatting and types, and that nothing needs a Python later than 3.10. Run scripts/setup.sh first.
set -eu
cd "$(dirname "$0")/.."
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
# Tensor.long() is taken for Python 2's integers; whole numbers are asked only where they are floats.
.venv/bin/vermin -t=3.10- --no-tips --quiet --violations --exclude long --exclude int.is_integer \
    caffe_compat converters hpm caffe_compat_pytest.py setup.py tests scripts benchmarks
