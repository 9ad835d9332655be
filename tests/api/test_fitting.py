"""A fit from the front door: right numbers, every view of them, and bad input told at once."""

from dataclasses import replace

import numpy as np
import pytest

import jaxmdwarf as jm
from jaxmdwarf.catalogue.column import Column
from jaxmdwarf.catalogue.columns import COLUMNS
from jaxmdwarf.errors import FormatError, RejectedInput, UsageError, WorkFailed
from jaxmdwarf.inference import schedule
from jaxmdwarf.inference.config import FitConfig
from jaxmdwarf.inference.problem import FitProblem
from jaxmdwarf.io.models import save_model
from jaxmdwarf.io.rejects import read_rejects
from jaxmdwarf.io.spectra.lamost_writer import LamostHeader, write_lamost_files
from jaxmdwarf.io.tables import read_table
from jaxmdwarf.measure.snr import estimate_snr
from jaxmdwarf.models.priors import LabelPrior
from jaxmdwarf.quality import QualityFlag
from jaxmdwarf.wavelengths import SPEED_OF_LIGHT_KMS


def test_labels_and_velocities_are_those_of_the_stars(fits, stars):
    assert len(fits) == len(stars.flux)
    assert fits.label_names == ("teff", "logg", "mh", "alpha_m")
    pull = (fits.labels - stars.labels) / fits.errors
    assert np.median(np.abs(pull)) < 1.1
    assert np.abs((fits.rv_kms - stars.rv_kms) / fits.e_rv_kms).max() < 4.0
    assert np.median(fits.chi2_red) == pytest.approx(1.0, abs=0.2)
    variances = np.diagonal(fits.covariance, axis1=1, axis2=2)[:, :4]
    assert np.allclose(np.sqrt(variances), fits.errors, rtol=1e-4)


def test_one_star_is_fitted_as_it_is_among_others(fitter, fits, stars):
    alone = fitter.fit(stars.arrays(2))
    assert np.allclose(alone.labels[0], fits.labels[2], atol=0.05 * fits.errors[2])
    by_function = jm.fit(jm.Spectrum.from_arrays(*stars.arrays(2)), fitter.model)
    assert np.allclose(by_function.labels, alone.labels, atol=0.05 * alone.errors)


def test_the_table_has_units_and_descriptions_and_says_what_flags_mean(fits, stars):
    table, frame = fits.to_table(), fits.to_pandas()
    assert table.colnames == list(frame.columns)
    assert (str(table["Teff"].unit), str(table["RV"].unit)) == ("K", "km / s")
    assert all(table[name].description for name in table.colnames)
    assert np.allclose(table["Teff"], fits.labels[:, 0])
    assert np.array_equal(table["flags"], fits.flags)
    assert np.array_equal(table["good"], fits.good)
    assert "AT_BOUND" in table.meta["FLAG1"]
    # As many digits are printed as errors leave sense in: 10 m/s, 0.1 K.
    digits = {
        name: table[name].pformat(show_name=False, show_unit=False)[1] for name in ("RV", "Teff")
    }
    assert [len(text.strip().partition(".")[2]) for text in digits.values()] == [2, 1]


def test_a_column_is_one_entry_that_says_where_its_values_are(fits, monkeypatch, tmp_path):
    new = {
        name: Column(name, "new", ucd="meta.number", kind=kind, source=source)
        for name, kind, source in (
            ("n_iter", "int", "fit.n_iter"),
            ("frame", "float", "fit.frame_kms"),
            ("survey", "text", "header.survey"),
        )
    }
    for name, column in new.items():
        monkeypatch.setitem(COLUMNS, name, column)
    some = fits[4:7]  # rows of all are made already
    table = some.to_table()
    assert np.array_equal(table["n_iter"], some.result.n_iter)
    assert np.isfinite(table["frame"]).all()
    assert list(table["survey"]) == [""] * 3
    some.write(tmp_path / "stars.fits")
    assert set(new) <= set(read_table(tmp_path / "stars.fits").columns)
    with pytest.raises(ValueError, match="none of"):
        Column("mine", "new", source="elsewhere.n_iter")


def test_a_table_is_written_as_the_command_writes_it_and_never_replaced_silently(
    fitter, stars, tmp_path
):
    found = fitter.fit([stars.arrays(0), "nowhere.fits"])
    found.write(tmp_path / "stars.fits")
    table = read_table(tmp_path / "stars.fits")
    assert table["Teff"].tolist() == pytest.approx(found.labels[:, 0].tolist())
    assert "creator" in table.attrs["provenance"]
    assert read_rejects(tmp_path / "stars_rejects.csv") == list(found.rejects)
    with pytest.raises(UsageError, match="exists"):
        found.write(tmp_path / "stars.fits")
    found.write(tmp_path / "stars.fits", overwrite=True)
    with pytest.raises(UsageError, match="extension"):
        found.write(tmp_path / "stars.png")
    # The same rows in another format; then others, whose rejects would take the place of these.
    found.write(tmp_path / "stars.csv")
    other = fitter.fit([stars.arrays(0), "elsewhere.fits"])
    with pytest.raises(UsageError, match=r"stars_rejects\.csv holds the rejects of"):
        other.write(tmp_path / "stars.ecsv")
    assert not (tmp_path / "stars.ecsv").exists()


def test_flags_are_told_in_words(fits):
    sentences = fits.describe_flags()
    assert len(sentences) == len(fits)
    assert fits.describe_flags(0) == sentences[0]
    for flags, words in zip(fits.flags, sentences, strict=True):
        assert len(words) == int(flags).bit_count()


def test_spectra_come_back_as_they_were_fitted_beside_their_models(fits, stars):
    n_pix = fits.wave_aa.size
    assert fits.flux.shape == fits.ivar.shape == fits.model_flux.shape == (len(fits), n_pix)
    masked = (fits.wave_aa > 6546) & (fits.wave_aa < 6586)
    assert (fits.ivar[:, masked] == 0).all()
    used = fits.ivar > 0
    pull = ((fits.flux - fits.model_flux) * np.sqrt(fits.ivar))[used]
    assert np.std(pull) == pytest.approx(1.0, abs=0.15)


def test_rows_are_chosen_as_those_of_an_array(fits):
    chosen = fits[[3, 1]]
    assert np.array_equal(chosen.labels, fits.labels[[3, 1]])
    assert np.array_equal(chosen.flux, fits.flux[[3, 1]])
    assert [one.labels[0, 0] for one in fits] == fits.labels[:, 0].tolist()
    assert len(fits[fits.good]) == fits.good.sum()
    assert np.array_equal(fits[-1].labels, fits[len(fits) - 1].labels)
    assert (len(fits[:0]), len(fits[:0].to_table())) == (0, 0)
    with pytest.raises(IndexError):
        fits[len(fits)]
    with pytest.raises(UsageError, match="column") as caught:
        fits["Teff"]
    assert "to_pandas()['Teff']" in caught.value.remedy


def test_rows_keep_what_is_known_of_them_beside_the_fit(fits):
    score = np.linspace(0.1, 2.0, len(fits))
    scored = type(fits)(fits.spectra, replace(fits._fitted, outlier_score=score), fits.model)
    chosen = scored[[2, 0]].to_pandas()
    assert chosen["OutlierScore"].tolist() == score[[2, 0]].tolist()
    assert scored[1].to_pandas()["path"].tolist() == [fits.to_pandas()["path"][1]]


def test_a_fit_tells_what_it_found(fits):
    lines = repr(fits).splitlines()
    assert lines[0].startswith(f"{len(fits)} fits, ")
    assert "Teff (K)" in lines[1]
    assert f"{fits.labels[0, 0]:.1f} ± {fits.errors[0, 0]:.1f}" in lines[2]
    assert lines[2].lstrip().startswith("spectrum 0")


def test_a_problem_is_that_of_the_fit(fits):
    problem = fits.problem(1)
    assert isinstance(problem, FitProblem)
    assert len(problem) == 1
    assert np.array_equal(np.asarray(problem.batch.flux), fits.flux[[1]])
    again = schedule.fit(problem)
    assert np.allclose(again.labels, fits.labels[[1]], atol=0.1 * fits.errors[[1]])


def test_a_figure_shows_the_spectrum_the_model_and_the_residuals(fits, tmp_path):
    figure = fits.plot(1)
    figure.savefig(tmp_path / "fit.png", dpi=50)
    spectrum, residual, names = figure.axes
    assert {text.get_text() for text in names.texts} >= {"Hα", "TiO", "CaH"}
    assert "fitted" in " ".join(text.get_text() for text in spectrum.get_legend().get_texts())
    title = names.get_title(loc="left") + " ".join(text.get_text() for text in names.texts)
    assert "spectrum 1" in title
    assert f"{fits.labels[1, 0]:.1f}" in title
    pulls = np.concatenate([line.get_ydata() for line in residual.lines[:1]])
    assert 0.5 < np.nanstd(pulls) < 1.5
    with pytest.raises(IndexError):
        fits.plot(len(fits))


def test_labels_can_be_fixed(model, stars):
    fixed = jm.fit(stars.arrays(0), model, fix={"logg": 4.8})
    assert fixed.labels[0, 1] == pytest.approx(4.8)
    assert np.isnan(fixed.errors[0, 1])
    each = jm.fit(stars.arrays(), model, fix={"logg": stars.labels[:, 1]})
    assert np.allclose(each.labels[:, 1], stars.labels[:, 1], atol=1e-4)


def test_priors_are_given_by_name_or_as_objects(model, stars):
    free = jm.fit(stars.arrays(0), model, priors="none")
    tight = jm.fit(stars.arrays(0), model, priors=LabelPrior("logg", 4.0, 1e-3))
    assert tight.labels[0, 1] == pytest.approx(4.0, abs=0.01)
    assert abs(free.labels[0, 1] - 4.0) > 0.05
    # What the spectrum says of itself does not depend on the prior.
    away = np.abs(tight.likelihood_labels - free.labels) / free.errors
    assert away.max() < 0.05
    assert tight.likelihood_errors == pytest.approx(free.errors, rel=0.05)
    assert free.likelihood_labels == pytest.approx(free.labels)
    row, other = tight.to_table()[0], free.to_table()[0]
    assert row["Logg_lik"] == pytest.approx(tight.likelihood_labels[0, 1])
    assert row["prior_Logg"] == pytest.approx(1.0, abs=1e-3)
    assert [other[f"prior_{name}"] for name in ("Teff", "Logg", "M_H", "alpha_M")] == [0.0] * 4
    covariance = other["corr_Teff_M_H"] * other["e_Teff"] * other["e_M_H"]
    assert covariance == pytest.approx(free.covariance[0, 0, 2])
    quick = jm.fit(stars.arrays(0), model, priors="none", likelihood_labels=False)
    assert np.isnan(quick.likelihood_labels).all()
    assert np.isnan(quick.to_table()["prior_Teff"]).all()
    with pytest.raises(UsageError, match="no prior 'sequense'"):
        jm.fit(stars.arrays(0), model, priors="sequense")


def test_velocities_are_fitted_or_taken_as_given(model, stars):
    import astropy.units as u

    given = jm.fit(stars.arrays(0), model, velocity=stars.rv_kms[0])
    assert given.rv_kms[0] == pytest.approx(stars.rv_kms[0], abs=1e-3)
    assert np.isnan(given.e_rv_kms[0])
    in_metres = jm.fit(stars.arrays(0), model, velocity=stars.rv_kms[0] * 1e3 * u.m / u.s)
    assert in_metres.labels == pytest.approx(given.labels)
    spectrum = jm.Spectrum.from_arrays(*stars.arrays(0), z=stars.rv_kms[0] / SPEED_OF_LIGHT_KMS)
    header = jm.fit(spectrum, model, velocity="header")
    assert header.labels == pytest.approx(given.labels)
    unknown = jm.fit(stars.arrays(0), model, velocity="header")
    assert unknown.flags[0] & QualityFlag.NO_HEADER_VELOCITY


def test_what_cannot_be_fitted_is_set_aside_among_others_and_raised_alone(fitter, stars):
    short = (stars.wave_aa[:200], stars.flux[0, :200], stars.ivar[0, :200])
    found = fitter.fit([stars.arrays(0), short, "nowhere.fits"])
    assert len(found) == 1
    assert [reject.path for reject in found.rejects] == ["nowhere.fits", "spectrum 1"]
    assert "rejected nowhere.fits" in repr(found)
    with pytest.raises(RejectedInput, match="cover"):
        fitter.fit(short)
    with pytest.raises(WorkFailed, match="none of 2 inputs"):
        fitter.fit([short, short])


def test_spectra_that_are_not_kept_are_missed_with_a_remedy(fitter, stars):
    lean = fitter.fit(stars.arrays(0), keep_spectra=False)
    assert np.isfinite(lean.labels).all()
    assert len(lean.to_table()) == 1
    with pytest.raises(UsageError, match="not kept") as caught:
        lean.plot()
    assert "keep_spectra=True" in caught.value.remedy


BAD_OPTIONS = {
    "an unknown option": ({"velocty": "fit"}, "Did you mean velocity?"),
    "a velocity of light": ({"velocity": 4e5}, "none of a star"),
    "a list of velocities": ({"velocity": [1.0, 2.0]}, "no velocity"),
    "an unknown label": ({"fix": {"log_g": 4.8}}, "label 'log_g' is unknown"),
    "a label outside the model": ({"fix": {"teff": 9000.0}}, "9000"),
    "a label without its name": ({"fix": 4.8}, "fix is a float"),
    "an unknown solver": ({"solver": "newton"}, "solver 'newton' is unknown"),
    "no batch": ({"batch_size": 0}, "batch_size 0"),
    "an empty window": ({"window_aa": (9500.0, 9600.0)}, "nothing of"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_options_that_make_no_sense_are_told_before_anything_is_read(model, case):
    options, message = BAD_OPTIONS[case]
    with pytest.raises(UsageError) as caught:
        jm.fit("never read", model, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_model_is_told(tmp_path, stars):
    (tmp_path / "notes").mkdir()
    with pytest.raises(FormatError, match=r"no model\.json"):
        jm.fit(stars.arrays(0), tmp_path / "notes")
    with pytest.raises(UsageError, match="no model directory"):
        jm.fit(stars.arrays(0), str(tmp_path / "none"))
    with pytest.raises(UsageError, match="which is no model"):
        jm.fit(stars.arrays(0), 3.0)


def test_a_configuration_is_what_options_change(model):
    fitter = jm.Fitter(model, config=FitConfig(min_snr=7.0), fix={"mh": 0.0}, batch_size=16)
    assert (fitter.config.min_snr, fitter.config.fixed) == (7.0, {"mh": 0.0})
    assert fitter.config.schedule.batch_size == 16
    assert "teff, logg, mh, alpha_m" in repr(fitter)


def test_a_path_to_a_model_and_files_end_in_a_table(model, stars, tmp_path):
    folder, wave = tmp_path / "night", 10 ** (3.775 + 1e-4 * np.arange(650))
    rows = [np.interp(wave, stars.wave_aa, stars.flux[row]) for row in range(2)]
    headers = [
        LamostHeader(
            obsid=100 + row, file_name=f"star-{row}.fits.gz", plan_id="T", ra_deg=10.0, dec_deg=5.0,
            lmjd=58000, spectrograph=1, fibre=1, exposure_s=900.0, helio_kms=0.0, subclass="M1",
            z=0.0, snr_r=40.0, snr_i=40.0,
        )
        for row in range(2)
    ]  # fmt: skip
    folder.mkdir()
    flux = np.asarray(rows, np.float32)
    write_lamost_files(
        folder, flux, (40 / flux) ** 2, np.zeros(flux.shape, np.int32), headers,
        layouts=["lamost-wavelength"] * 2, log10_start=3.775, log10_step=1e-4,
    )  # fmt: skip
    (folder / "notes.txt").write_text("no spectrum")
    saved = save_model(model, tmp_path / "model")
    fits = jm.fit(folder, saved, processes=1)
    assert fits.to_table()["obsid"].tolist() == [100, 101]
    assert [reject.path for reject in fits.rejects] == [str(folder / "notes.txt")]
    assert fits.plot(1).axes[2].get_title(loc="left").startswith("star-1.fits.gz · M1 · S/N 40")


def test_three_lines_lead_from_arrays_to_a_plot(model, stars, tmp_path):
    """`.ci/run` runs those of the README in a process of their own."""
    np.savez(tmp_path / "star.npz", *stars.arrays(0))
    saved = save_model(model, tmp_path / "model")
    code = (
        "import numpy as np, jaxmdwarf as jm\n"
        f"fits = jm.fit(list(np.load({str(tmp_path / 'star.npz')!r}).values()), {str(saved)!r})\n"
        f"fits.plot().savefig({str(tmp_path / 'fit.png')!r})\n"
    )
    exec(compile(code, "three lines", "exec"), {})
    assert (tmp_path / "fit.png").read_bytes().startswith(b"\x89PNG")


def test_spectra_without_a_header_are_held_against_the_least_snr_by_what_they_show(model, stars):
    wave, flux, ivar = stars.arrays(0)
    shown = estimate_snr(wave, np.asarray(flux), np.asarray(ivar), "r")
    assert shown == pytest.approx(40.0, rel=0.1)  # as the stars were made
    assert len(jm.fit(stars.arrays(0), model, min_snr=0.99 * shown).labels) == 1
    with pytest.raises(UsageError, match="min_snr is not a number"):
        jm.fit(stars.arrays(0), model, min_snr=float("nan"))
    with pytest.raises(RejectedInput, match=f"S/N {shown:.3g} is below {1.01 * shown:g}"):
        jm.fit(stars.arrays(0), model, min_snr=1.01 * shown)
