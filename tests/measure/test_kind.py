"""Kinds of objects: hot stars and galaxies are no M dwarfs, subdwarfs and faint M dwarfs are."""

from types import SimpleNamespace

import numpy as np
import pytest

from jaxmdwarf.catalogue.rows import describe_kinds
from jaxmdwarf.io.spectra.readers import read_record
from jaxmdwarf.measure.indices import Measurement
from jaxmdwarf.measure.kind import (
    BANDS,
    KINDS,
    classify_spectra,
    measure_band_strength,
    read_class,
)
from jaxmdwarf.measure.spectral_type import estimate_band_type
from jaxmdwarf.measure.spectrum import measure_spectra
from jaxmdwarf.measure.windows import window_in_vacuum
from jaxmdwarf.quality import QualityFlag
from jaxmdwarf.wavelengths import air_to_vacuum, doppler_factor, is_within
from jaxmdwarf.workflows.measuring import measure_row

WAVE = 10 ** (3.5682 + 1e-4 * np.arange(3909))
HALPHA_AA = 6564.6


def meta(**header):
    empty = {"object_class": "", "subclass": "", "z": np.nan, "snr_r": np.nan, "snr_i": np.nan}
    empty |= {"ra_deg": np.nan, "dec_deg": np.nan, "designation": "", "obsid": "", "path": ""}
    return {**empty, "had_nonfinite": False, **header}


def banded(strength):
    """Spectra (n, n_pix) with Na I, and bands `strength` times as deep as those of M0."""
    flux = np.ones((np.size(strength), WAVE.size))
    flux[:, is_within(WAVE, (8180.0, 8202.0))] = 0.9
    for band in BANDS.values():
        low, high = window_in_vacuum(*band.band_aa)
        inside = is_within(WAVE, (low - 2, high + 2))
        flux[:, inside] = 1.0 - np.reshape(strength, (-1, 1)) * band.depth_m0
    return flux


def classify(flux, ivar=None, *, rv_kms=0.0, **said):
    ivar = np.full(flux.shape, 1e4) if ivar is None else ivar
    found = measure_spectra(WAVE, flux, ivar, rv_kms=rv_kms)
    return classify_spectra(
        WAVE,
        flux,
        ivar,
        stretch=doppler_factor(np.asarray(rv_kms)),
        indices={
            name: Measurement(found[name], found[f"e_{name}"]) for name in ("tio5", "cah2", "cah3")
        },
        ew_halpha=found["ew_halpha"],
        snr=found["snr_i"],
        **said,
    )


def make_hot_stars():
    """Black bodies with Halpha and lines of metals and no band at all."""
    spectra = []
    for teff in range(5000, 9001, 500):
        continuum = WAVE**-5.0 / np.expm1(1.4388e8 / (WAVE * teff))
        lines = {HALPHA_AA: 3.9 if teff > 6000 else 3.0 * (6000 / teff) ** 2}
        metals = {5891.6: 0.8, 5897.6: 0.6, 6162.9: 0.5, 6280.0: 0.8, 6496.0: 0.9, 8544.4: 3.0}
        lines |= {line: width * (6000 / teff) ** 2 for line, width in metals.items()}
        flux = continuum / np.median(continuum)
        for centre, width in lines.items():
            sigma = 3.5 if centre == HALPHA_AA else 2.2
            profile = np.exp(-0.5 * ((WAVE - centre) / sigma) ** 2)
            flux = flux * (1 - width * profile / (sigma * np.sqrt(2 * np.pi)))
        spectra.append(flux)
    return np.array(spectra)


@pytest.mark.parametrize("snr", [10, 30, 150])
def test_stars_of_5000_to_9000_k_are_no_m_dwarfs(snr):
    flux = make_hot_stars()
    flux = flux + np.random.default_rng(snr).normal(size=flux.shape) / snr
    for one in flux:
        row = measure_row(WAVE, one, np.full(WAVE.size, snr**2.0), meta(z=0.0, subclass="T5000"))
        assert row["flags"] & int(QualityFlag.NOT_M_DWARF)
        assert row["kind"] in ("hotter star", "K dwarf")
        assert row["BandStrength"] == pytest.approx(0.0, abs=4 * row["e_BandStrength"] + 0.1)


def test_band_strength_is_in_units_of_m0_with_the_error_that_noise_has():
    truth = np.array([0.0, 1.0, 3.0])
    exact = measure_band_strength(WAVE, banded(truth), np.full((3, WAVE.size), 100.0))
    np.testing.assert_allclose(exact.value, truth, rtol=0.02, atol=1e-9)
    noise = np.random.default_rng(4).normal(size=(300, WAVE.size)) / 20
    found = measure_band_strength(WAVE, banded(1.0) + noise, np.full(noise.shape, 400.0))
    assert np.std((found.value - 1.01) / found.error) == pytest.approx(1.0, abs=0.1)
    assert np.mean(found.value) == pytest.approx(1.01, abs=0.02)


def test_a_cosmic_ray_or_a_lost_band_makes_no_star_another():
    flux, ivar = banded([2.0, 2.0, 2.0]), np.full((3, WAVE.size), 1e4)
    flux[0, np.argmin(abs(WAVE - 7100))] += 50.0
    ivar[1, (WAVE > 6700) & (WAVE < 6800)] = 0.0
    ivar[2, WAVE > 6600] = 0.0  # two bands of six are left
    found = measure_band_strength(WAVE, flux, ivar)
    np.testing.assert_allclose(found.value, 2.0, atol=0.1)
    ivar[:, WAVE > 6000] = 0.0
    assert np.isnan(measure_band_strength(WAVE, flux, ivar)).all()


def test_surveys_decide_between_k7_and_m0_and_nowhere_else():
    strengths = np.array([0.1, 0.6, 1.0, 2.0])
    flux = banded(strengths)
    told = {
        name: classify(flux, subclasses=[name] * 4).not_m_dwarf.tolist()
        for name in ("dM0", "K7", "Non")
    }
    assert told == {
        "dM0": [True, False, False, False],
        "K7": [True, True, True, False],
        "Non": [True, True, False, False],
    }
    assert classify(flux, subclasses=["K7"] * 4).kind.tolist()[2:] == ["K dwarf", "M dwarf"]
    # A redshift says what a class says, alone or with it.
    for name in ("Non", "K7"):
        found = classify(flux, subclasses=[name] * 4, header_kms=9000.0)
        assert found.not_m_dwarf.tolist() == told["K7"]


def test_noise_alone_flags_no_m_dwarf():
    rng = np.random.default_rng(8)
    for snr in (2.0, 5.0):
        flux = banded(1.0) + rng.normal(size=(200, WAVE.size)) / snr
        found = classify(flux, np.full(flux.shape, snr**2), subclasses=["dM0"] * 200)
        assert found.not_m_dwarf.mean() < 0.02


def test_emptiness_is_no_kind_of_star():
    noise = np.random.default_rng(2).normal(size=(1, WAVE.size))
    found = classify(noise, np.ones(noise.shape))
    assert found.kind.tolist() == ["empty"]
    assert not found.not_m_dwarf.any()
    assert set(found.kind) <= set(KINDS)


def test_redshifts_of_galaxies_are_told_and_not_applied():
    redshifted = {"z": 0.12, "object_class": "GALAXY"}
    flat, ivar = np.ones(WAVE.size), np.full(WAVE.size, 1e4)
    row = measure_row(WAVE, flat, ivar, meta(**redshifted))
    assert row["RV_used"] == 0.0
    assert row["kind"] == "galaxy"
    both = int(QualityFlag.NOT_STELLAR_VELOCITY | QualityFlag.NOT_M_DWARF)
    assert row["flags"] & both == both
    # A wrong redshift makes no galaxy of an M dwarf.
    row = measure_row(WAVE, banded(2.0)[0], ivar, meta(**redshifted))
    assert row["kind"] == "M dwarf"
    assert row["flags"] & both == int(QualityFlag.NOT_STELLAR_VELOCITY)


def test_giants_have_tio_and_neither_cah_nor_sodium():
    flux = banded(np.array([3.0, 3.0]))
    for low, high in ((6780.0, 6850.0), (6954.0, 7002.0)):  # CaH is that of K stars
        flux[0, is_within(WAVE, (low, high))] = 0.95
    flux[0, is_within(WAVE, (8175.0, 8210.0))] = 1.0
    found = classify(flux)
    assert found.kind.tolist() == ["giant", "M dwarf"]
    assert found.not_m_dwarf.tolist() == [True, False]


def test_subtypes_from_all_bands_are_those_of_templates(real_data):
    """Templates of Bochanski et al. (2007): the relation is their mean with those of Kesseli et al.

    Eq. 11 calls their M0 -0.6: the scale of Reid et al. (1995) begins later.
    """
    for subtype, template in enumerate(
        read_templates(real_data / "bochanski2007_M0_M9_vac.npz", in_air=False)
    ):
        strength = measure_band_strength(template.wave, template.flux, template.ivar)
        found = estimate_band_type(strength)
        if subtype < 7:
            assert found.value[0] == pytest.approx(subtype, abs=0.7)
        else:
            assert np.isnan(found.value[0]) or found.value[0] > 6.5


def test_stars_without_bands_have_no_subtype_and_errors_grow_with_the_noise():
    weak = estimate_band_type(Measurement(np.array([0.1, np.nan, 9.0]), np.full(3, 0.01)))
    assert np.isnan(weak.value).all()
    assert np.isnan(weak.error).all()
    sharp, noisy = (estimate_band_type(Measurement(2.0, error)).error for error in (0.0, 1.0))
    assert sharp == pytest.approx(0.4)
    assert noisy == pytest.approx(np.hypot(0.4, 1 / 0.99), rel=0.01)


@pytest.mark.parametrize(
    ("subclass", "said"),
    [
        *(("M0", "M dwarf"), ("dM4", "M dwarf"), ("esdM3", "M dwarf"), ("usdM1", "M dwarf")),
        *(("gM0", "giant"), ("K7", "other"), ("G2V", "other"), ("A0 (12345)", "other")),
        *(("Non", ""), ("T5000", ""), ("DoubleStar", ""), ("", "")),
    ],
)
def test_classes_of_surveys_are_understood(subclass, said):
    assert read_class("STAR", subclass) == said


def test_kinds_of_rows_together_are_those_of_each():
    flux, ivar = banded(np.array([0.0, 1.0, 3.0])), np.full((3, WAVE.size), 400.0)
    rv_kms = np.array([-50.0, 0.0, 80.0])
    metas = [meta(subclass=name) for name in ("F5", "dM0", "dM4")]
    found = measure_spectra(WAVE, flux, ivar, rv_kms=rv_kms)
    columns, flags = describe_kinds(WAVE, flux, ivar, metas=metas, rv_kms=rv_kms, measured=found)
    for row in range(3):
        some = slice(row, row + 1)
        alone, flag = describe_kinds(
            *(WAVE, flux[some], ivar[some]),
            metas=metas[some],
            rv_kms=rv_kms[some],
            measured={name: values[some] for name, values in found.items()},
        )
        assert alone["kind"][0] == columns["kind"][row]
        assert alone["BandStrength"][0] == pytest.approx(columns["BandStrength"][row], rel=1e-9)
        assert flag[0] == flags[row]
    assert flags.tolist() == [int(QualityFlag.NOT_M_DWARF), 0, 0]


def read_templates(path, *, in_air):
    archive = np.load(path)
    for key in archive:
        wave, flux = archive[key].T[:2].astype(np.float64)
        noise = np.median(flux) / 50
        yield SimpleNamespace(
            name=key,
            wave=air_to_vacuum(wave) if in_air else wave,
            flux=flux[None],
            ivar=np.full((1, wave.size), noise**-2.0),
        )


def test_dwarfs_and_subdwarfs_of_all_types_are_m_dwarfs(real_data):
    """Templates of Bochanski et al. (2007) and Lepine et al. (2007), unclassified."""
    one_of = [
        *read_templates(real_data / "bochanski2007_M0_M9_vac.npz", in_air=False),
        *read_templates(real_data / "lepine2007_subdwarfs_air.npz", in_air=True),
    ]
    assert len(one_of) == 35
    for template in one_of:
        spectrum = (template.wave, template.flux, template.ivar)
        found = measure_spectra(*spectrum)
        kinds, flags = describe_kinds(*spectrum, metas=[meta()], rv_kms=0.0, measured=found)
        assert kinds["kind"][0] == "M dwarf", template.name
        assert flags[0] == 0


def test_real_stars_of_one_plate_are_what_their_survey_says(real_data):
    missed, lost, n_other, n_dwarf = [], [], 0, 0
    for path in sorted(real_data.glob("lamost*/*.fits.gz")):
        record = read_record(path)
        said = record.meta
        if not np.count_nonzero(record.ivar) > 1000:
            continue
        row = measure_row(record.wave_aa, record.flux, record.ivar, said)
        not_m = bool(row["flags"] & int(QualityFlag.NOT_M_DWARF))
        if said["object_class"] == "STAR" and "M" not in said["subclass"]:
            n_other += 1
            missed += [] if not_m else [path.name]
        elif "M" in said["subclass"] and "g" not in said["subclass"] and row["SNRr"] > 10:
            n_dwarf += 1
            lost += [path.name] if not_m else []
    assert n_other >= 70
    assert n_dwarf >= 17
    assert not missed
    assert not lost


def test_a_spectrum_is_measured_alike_alone_and_among_others():
    """To the last bit: batches of a fit hold other spectra than those of another division of it."""
    rng = np.random.default_rng(8)
    flux = (banded(rng.uniform(0.2, 1.5, 7)) * rng.normal(1, 0.05, (7, WAVE.size))).astype("f4")
    ivar = np.full(flux.shape, 400.0, "f4")
    rv_kms = rng.uniform(-400, 400, 7)

    def measure(rows):
        spectra = WAVE, flux[rows], ivar[rows]
        found = measure_spectra(*spectra, rv_kms=rv_kms[rows])
        metas = [meta() for _ in rows]
        kinds, flags = describe_kinds(*spectra, metas=metas, rv_kms=rv_kms[rows], measured=found)
        return found | kinds | {"kind_flags": flags}

    together = measure(list(range(7)))
    for rows in ([3], [6, 2], [5, 4, 1]):
        for name, values in measure(rows).items():
            np.testing.assert_array_equal(values, together[name][rows], err_msg=name)
