"""What benchmarks share: which device they ran on, what they spent, where results are kept."""

import json
import os
import platform
import re
import resource
import sys
from pathlib import Path


def name_device():
    """The device as a folder name; a CPU, which has no telling name, with its kind and cores."""
    import jax

    kind = jax.devices()[0].device_kind
    if jax.default_backend() == "cpu":
        kind = f"cpu_{platform.machine()}_{os.cpu_count()}_cores"
    return re.sub(r"\W+", "_", kind).lower()


def save_result(stem, result, *, out=None):
    """Keep a result as <out>/<device>/<stem>.json; returns where.

    Cases (top-level keys) that were not run this time stay as they were. `out` is
    benchmarks/results if left out.
    """
    target = _locate(stem, out)
    target.parent.mkdir(parents=True, exist_ok=True)
    kept = read_result(stem, out=out)
    # Written beside it first: a run that is killed leaves the old file or the new one.
    beside = target.with_suffix(".partial")
    beside.write_text(json.dumps({**kept, **result}, indent=1) + "\n")
    beside.replace(target)
    return target


def read_result(stem, *, out=None):
    """What `save_result` has kept so far; empty if nothing."""
    target = _locate(stem, out)
    return json.loads(target.read_text()) if target.exists() else {}


def _locate(stem, out):
    return Path(out or Path(__file__).parent / "results") / name_device() / f"{stem}.json"


def count_cpu_seconds():
    """Processor time of this process and its ended children: what load by others leaves alone."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def find_peak_memory():
    """Most bytes of main memory that this process has held at once."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
