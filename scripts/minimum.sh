#!/bin/sh
# The tests with the oldest versions that setup.py allows, in an environment of its own: scripts/minimum.sh FOLDER [tests].
# Makes FOLDER if it is not there; some gigabytes. PYTHON chooses the interpreter, of which constraints-minimum.txt says
# what it has: 3.11. Python 3.10 is checked without being run, by scripts/check.sh: ruff's target version, mypy's, and
# vermin, which knows since when a function or an argument is there.
set -eu
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || { echo "usage: scripts/minimum.sh FOLDER [pytest arguments]" >&2; exit 2; }
folder=$1
shift
if [ ! -x "$folder/bin/python" ]; then
    "${PYTHON:-python3}" -m venv "$folder"
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir -c constraints-minimum.txt \
        -e ".[all]" pytest pytest-xdist hypothesis
    # It checks how source is formatted that the tests make: a tool, of the set-up's version.
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir -c constraints.txt ruff
fi
"$folder/bin/python" -m pip check
# h5py before 3.9 asks numpy for a function that numpy 1.25 calls by another name.
exec "$folder/bin/python" -m pytest -p no:cacheprovider -W 'ignore:`product` is deprecated:DeprecationWarning' "$@"
