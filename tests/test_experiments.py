"""Experiments compare methods fairly."""

from pathlib import Path

import pytest

from jaxmdwarf.inference.config import FitConfig
from jaxmdwarf.models.priors import LabelPrior
from jaxmdwarf.workflows.progress import Silent

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(
    not (ROOT / "experiments").is_dir(), reason="not run from the repository"
)


@pytest.fixture
def survey(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from experiments import simulated_survey

    return simulated_survey


def test_a_star_is_given_its_priors_once(survey, monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(
        survey, "fit_files", lambda files, model, out, **given: calls.append((files, given))
    )
    held = FitConfig(priors=(LabelPrior("mh", -0.1, 0.2),))
    for config in (held, FitConfig()):
        fit = tmp_path / "methods" / "fit.parquet"
        survey._fit(tmp_path / "model", fit, {"b.fits", "a.fits"}, config, Silent())
    (files, own), (_, none) = calls
    assert files == ["a.fits", "b.fits"]
    # Priors that are given replace those of a model, and do not come on top of them.
    assert own["options"].priors == held.priors
    assert none["options"].priors == ("model",)
    fit.write_bytes(b"")
    survey._fit(tmp_path / "model", fit, set(), FitConfig(), Silent())
    assert len(calls) == 2
