"""Experiments compare methods fairly."""

from dataclasses import replace
from pathlib import Path

import pytest

from jaxmdwarf.errors import UsageError
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


def test_the_paper_goes_on_where_it_was_stopped(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT))
    from experiments import lamost_dr10

    done = []

    def stage(name, *, fails=False):
        def run(*arguments, **options):
            if fails and name not in done:
                done.append(name)
                raise KeyboardInterrupt
            done.append(name)
            return {"inputs": arguments[0]}

        return run

    for name, stops in (
        ("clean_files", False),
        ("train_emulator_files", False),
        ("train_transfer_files", True),
        ("fit_files", False),
    ):
        monkeypatch.setattr(lamost_dr10, name, stage(name, fails=stops))
    data = lamost_dr10.DataConfig("spectra", "grid", "isochrones", "reference")
    paper = lamost_dr10.LamostDr10Config(data=data, out=str(tmp_path / "paper"))
    with pytest.raises(KeyboardInterrupt):
        paper.run()
    outcome = paper.run()
    assert done.count("clean_files") == done.count("train_emulator_files") == 1
    assert done[-2:] == ["train_transfer_files", "fit_files"]
    # What is fitted is what was selected.
    assert outcome["fit"]["inputs"] == [f"@{tmp_path / 'paper' / 'selected.txt'}"]
    with pytest.raises(UsageError, match="gaia"):
        replace(paper, data=replace(data, gaia="gaia.fits")).run()
