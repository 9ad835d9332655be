#!/usr/bin/env bash
# The smoke test in an environment with the lowest versions that pyproject.toml allows: a bound
# that is too low shows here. Wants `uv` on the PATH (pip install uv). Takes some five minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export UV_LINK_MODE=copy
uv venv --quiet --python "${PYTHON:-3.11}" "$work/env"
VIRTUAL_ENV="$work/env" uv pip install --quiet --resolution lowest-direct .
cd "$work"
env/bin/python -c 'import jax, jaxmdwarf; print("jax", jax.__version__)'
env/bin/jaxmdwarf quickstart --n 250 --grid 300 --out quickstart --json > summary.json
env/bin/jaxmdwarf measure quickstart/survey/spectra --out measured.csv
env/bin/jaxmdwarf fit quickstart/survey/spectra --model quickstart/transfer --out fitted.fits
env/bin/python - <<'PY'
import json

metrics = json.load(open("quickstart/metrics.json"))
counts = metrics["counts"]
assert counts["input"] == counts["catalogue"] + counts["rejected"] > 0, counts
assert metrics["fit"]["converged_fraction"] > 0.9, metrics["fit"]
print("lowest versions:", counts)
PY
