#!/usr/bin/env bash
# The science tests of minutes (marker `slow`), which the default suite leaves out. What the last
# run said stands in slow_results.txt beside this script; commit it with what made you run it.
set -uo pipefail
cd "$(dirname "$0")/../.."
results=tests/tools/slow_results.txt
# Long computations want the programs that users have, not those that compile quickest.
export XLA_FLAGS=${XLA_FLAGS-} JAX_DISABLE_MOST_OPTIMIZATIONS=0
{
    printf 'commit %s, %s\n' "$(git rev-parse --short HEAD)" "$(date -u +%F)"
    "${PYTEST:-.venv/bin/pytest}" -m slow -n "${WORKERS:-1}" -q --durations=0 -rA 2>&1 |
        grep -E '^(PASSED|FAILED|ERROR|SKIPPED)|passed|failed|s call' |
        sed -E 's/ in [0-9.]+s.*$//; s/^ +//'
} | tee "$results"
! grep -qE '^(FAILED|ERROR)|failed' "$results"
