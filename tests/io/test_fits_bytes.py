"""The lean path through FITS against astropy: places, values, sums, and what it leaves alone."""

import io

import numpy as np
import pytest
from astropy.io import fits

from jaxmdwarf.errors import RejectedInput
from jaxmdwarf.io import fits_bytes
from jaxmdwarf.io.fits_bytes import (
    LeanHeader,
    UnusualFits,
    columns_of,
    image_of,
    is_fits,
    list_hdus,
    next_hdu,
    require_checksums,
    require_sane_cards,
    vector_of,
)

TYPES = (">u1", ">i2", ">i4", ">i8", ">f4", ">f8")


def as_bytes(*hdus, checksum=False):
    out = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(out, checksum=checksum)
    return out.getvalue()


def images():
    rng = np.random.default_rng(3)
    return [fits.ImageHDU(rng.integers(1, 90, (3, 5)).astype(kind)) for kind in TYPES]


def table():
    rng = np.random.default_rng(4)
    forms = {"L": "L", "A": "7A", "B": "3B", "I": "2I", "J": "J", "K": "K", "E": "5E", "D": "4D"}
    forms |= {"C": "C", "M": "2M"}
    columns = []
    for letter, form in forms.items():
        repeat = int(form[:-1] or 1)
        values = {"L": [True, False], "A": ["one", "two"]}.get(letter)
        if values is None:
            values = rng.integers(1, 90, (2, repeat) if repeat > 1 else 2)
        columns.append(fits.Column(f"name_{letter}", form, array=values))
    return fits.BinTableHDU.from_columns(columns)


@pytest.fixture(scope="module")
def whole():
    return as_bytes(*images(), table(), checksum=True)


def test_units_lie_where_astropy_finds_them(whole):
    found = list(list_hdus(whole))
    with fits.open(io.BytesIO(whole)) as hdus:
        assert len(found) == len(hdus) == 8
        for lean, hdu in zip(found, hdus, strict=True):
            about = hdu.fileinfo()
            assert (lean.start, lean.stop - lean.start) == (about["datLoc"], about["datSpan"])
        sizes = [one.size for one in found]
    assert sizes == [0, 15, 30, 60, 120, 60, 120, 2 * (1 + 7 + 3 + 4 + 4 + 8 + 20 + 32 + 8 + 32)]


def test_images_are_those_of_astropy_in_the_byte_order_of_the_file(whole):
    units = list(list_hdus(whole))
    assert image_of(whole, units[0]) is None
    for kind, hdu, unit in zip(TYPES, images(), units[1:7], strict=True):
        found = image_of(whole, unit)
        assert found.dtype == np.dtype(kind)
        np.testing.assert_array_equal(found, hdu.data)


def test_columns_of_tables_lie_where_astropy_finds_them(whole):
    unit, hdu = list(list_hdus(whole))[-1], table()
    found = columns_of(unit)
    for name, (_, offset) in hdu.data.dtype.fields.items():
        letter, _, place = found[name.upper()]
        assert (letter, place) == (name[-1], offset)
        if letter in "BIJKED":
            values = vector_of(whole, unit, found[name.upper()])
            np.testing.assert_array_equal(values, np.atleast_1d(hdu.data[name][0]))
        else:
            with pytest.raises(UnusualFits, match=letter):
                vector_of(whole, unit, found[name.upper()])
    assert found["NAME_E"][1] == 5


def test_scaled_columns_are_told_and_others_of_their_table_are_read():
    plain, scaled = np.array([3, 4], np.int16), np.array([40_000, 7], np.uint16)
    unit = fits.BinTableHDU.from_columns(
        [fits.Column("U", "I", bzero=32768, array=scaled), fits.Column("P", "I", array=plain)]
    )
    data = as_bytes(unit)
    found = columns_of(list(list_hdus(data))[1])
    assert found == {"U": ("?", 1, 0), "P": ("I", 1, 2)}
    # The same with other cards of this kind.
    for card in ("TSCAL1", "TDIM1"):
        header = {"TFIELDS": "1", "TFORM1": "'2I'", "TTYPE1": "'a'", "NAXIS1": "4", card: "1.0"}
        one = LeanHeader({key.ljust(8): value for key, value in header.items()})
        assert columns_of(fits_bytes.LeanHdu(one, 0, 4)) == {"A": ("?", 2, 0)}


@pytest.mark.parametrize(
    "value", [True, False, 7, -12, 1.5, -2.5e-7, 1e300, "text", "it's", "''", "a / b", " lead", ""]
)
def test_values_of_cards_are_those_of_astropy(value):
    card = str(fits.Card("KEY", value, "a comment"))
    found = LeanHeader({"KEY     ": card[10:]}).get("KEY")
    assert found == fits.Card.fromstring(card).value
    assert type(found) is type(value)


def test_values_that_astropy_would_not_write_are_read_or_left_to_it():
    cards = {"A": "1.5D+03", "B": "2d-1 / days", "C": "   / nothing", "E": "'open", "F": "1,5"}
    header = LeanHeader({key.ljust(8): value for key, value in cards.items()})
    assert (header.get("A"), header.get("B"), header.get("C", 4)) == (1500.0, 0.2, None)
    assert header.get("G", 4) == 4
    assert header.get("G") is None
    assert "A" in header
    assert "G" not in header
    for key in "EF":
        with pytest.raises(UnusualFits):
            header.get(key)


def test_the_first_of_repeated_cards_counts_and_long_texts_are_left_to_astropy():
    unit = fits.ImageHDU(np.arange(4, dtype=np.int16))
    unit.header["TWICE"] = 1
    unit.header.append(("TWICE", 2))
    data = as_bytes(unit)
    assert list(list_hdus(data))[1].header.get("TWICE") == 1
    unit.header["LONG"] = "x" * 100
    with pytest.raises(UnusualFits, match="CONTINUE"):
        image_of(as_bytes(unit), list(list_hdus(as_bytes(unit)))[1])


@pytest.mark.parametrize("keyword", ["BSCALE", "BZERO", "BLANK"])
def test_scaled_images_are_left_to_astropy(keyword):
    plain = fits.ImageHDU(np.arange(6, dtype=np.int16))
    data = bytearray(as_bytes(plain))
    place = data.index(b"GCOUNT  ")
    data[place : place + 80] = f"{keyword:8}= {3:20d}".ljust(80).encode()
    unit = list(list_hdus(bytes(data)))[1]
    with pytest.raises(UnusualFits, match="scaled"):
        image_of(bytes(data), unit)
    if keyword != "BLANK":
        neutral = 1 if keyword == "BSCALE" else 0
        data[place : place + 80] = f"{keyword:8}= {neutral:20d}".ljust(80).encode()
        image = image_of(bytes(data), list(list_hdus(bytes(data)))[1])
        np.testing.assert_array_equal(image, plain.data)


def test_what_is_cut_off_is_counted(whole):
    last = list(list_hdus(whole))[-1]
    end = last.start + last.size
    for n_lost in (1, 7):
        cut = whole[: end - n_lost]
        for look in (lambda: list(list_hdus(cut)), lambda: require_sane_cards(cut)):  # noqa: B023
            with pytest.raises(RejectedInput, match=f"truncated: {n_lost} bytes are missing"):
                look()
    list(list_hdus(whole[:end]))
    require_sane_cards(whole[:end])
    long = fits.ImageHDU(np.arange(3, dtype=np.int16))
    long.header.update({f"KEY{number}": number for number in range(40)})
    data = as_bytes(long)
    (_, unit) = list_hdus(data)
    assert unit.start == 3 * 2880
    assert unit.header.get("KEY39") == 39
    with pytest.raises(RejectedInput, match="within a header"):
        next_hdu(data[: unit.start - 1], 2880)
    assert next_hdu(data[: 2 * 2880 - 1], 2880) is None


def test_special_records_after_the_last_unit_are_not_read(whole):
    n_unit = len(list(list_hdus(whole)))
    for after in (b"\0" * 2880, b"SPECIAL" + b" " * 2873, b"short"):
        assert len(list(list_hdus(whole + after))) == n_unit
        require_sane_cards(whole + after)
    assert next_hdu(whole, len(whole)) is None
    assert is_fits(whole)
    assert not is_fits(whole[1:])


def test_sums_are_those_that_astropy_writes(whole):
    units = list(list_hdus(whole))
    require_checksums(whole, units)
    for number, unit in enumerate(units[1:], 1):
        changed = bytearray(whole)
        changed[unit.start + unit.size - 1] ^= 4
        with pytest.raises(RejectedInput, match=f"DATASUM in HDU {number} "):
            require_checksums(bytes(changed), list_hdus(bytes(changed)))
    # A header has a sum of its own.
    begin = units[2].stop
    changed = bytearray(whole)
    place = changed.index(b"array data type", begin)
    changed[place] ^= 1
    with pytest.raises(RejectedInput, match="CHECKSUM in HDU 3 "):
        require_checksums(bytes(changed), list_hdus(bytes(changed)))
    changed = bytearray(whole)
    changed[changed.index(b"conforms")] ^= 1
    with pytest.raises(RejectedInput, match="CHECKSUM in HDU 0 "):
        require_checksums(bytes(changed), list_hdus(bytes(changed)))


def test_sums_that_nobody_computed_and_those_of_tables_without_rows_are_not_held():
    empty = fits.BinTableHDU.from_columns([fits.Column("A", "J", array=np.zeros(0, np.int32))])
    empty.header["CHECKSUM"], empty.header["DATASUM"] = "0" * 16, "12345"
    image = fits.ImageHDU(np.arange(5, dtype=np.int32))
    image.header["CHECKSUM"], image.header["DATASUM"] = "0000000000000000", "unknown"
    data = as_bytes(empty, image)
    require_checksums(data, list_hdus(data))


def set_card(data, keyword, value, *, after=0):
    place = data.index(f"{keyword:8}=".encode(), after)
    return data[:place] + f"{keyword:8}= {value:>20}".ljust(80).encode() + data[place + 80 :]


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("NAXIS", 17), ("NAXIS", -1), ("NAXIS1", -5), ("NAXIS2", -3), ("NAXIS2", 2**40 + 1),
        ("PCOUNT", -1), ("PCOUNT", 10**9), ("GCOUNT", -1), ("GCOUNT", 10**9), ("NAXIS", "T"),
        ("BITPIX", 24), ("BITPIX", 0), ("BITPIX", "1.5"),
    ],
)  # fmt: skip
def test_sizes_that_cannot_be_are_named_before_astropy_sees_them(keyword, value):
    data = as_bytes(fits.ImageHDU(np.ones((3, 5), np.float32)))
    changed = set_card(data, keyword, value, after=2880)
    with pytest.raises(RejectedInput, match=f"damaged header: {keyword} = {value} in HDU 1".replace(
        "= T", "= True")):  # fmt: skip
        require_sane_cards(changed)


def test_the_largest_sizes_that_can_be_pass():
    columns = [fits.Column(f"c{i}", "B", array=np.ones(2, np.uint8)) for i in range(3)]
    data = as_bytes(fits.BinTableHDU.from_columns(columns))
    require_sane_cards(set_card(data, "TFIELDS", 999))
    for value in (1000, -1):
        with pytest.raises(RejectedInput, match="TFIELDS"):
            require_sane_cards(set_card(data, "TFIELDS", value))
    cube = fits.ImageHDU(np.ones((1,) * 16, np.int16))
    require_sane_cards(as_bytes(cube))


def test_heaps_and_groups_count_for_the_size_of_a_unit(tmp_path):
    rows = np.empty(2, object)
    rows[:] = [np.arange(700, dtype=np.int32), np.arange(3, dtype=np.int32)]
    heap = fits.BinTableHDU.from_columns([fits.Column("V", "PJ()", array=rows)])
    data = as_bytes(heap, fits.ImageHDU(np.arange(3, dtype=np.int16)))
    require_sane_cards(data)
    units = list(list_hdus(data))
    assert len(units) == 3
    assert units[1].size == 2 * 8 + 703 * 4
    np.testing.assert_array_equal(image_of(data, units[2]), [0, 1, 2])
    cut = data[: units[1].start + units[1].size - 5]
    with pytest.raises(RejectedInput, match="5 bytes are missing"):
        require_sane_cards(cut)
    # Random groups: GCOUNT of (PCOUNT parameters and an image), which only astropy reads.
    group = fits.GroupData(np.ones((4, 2, 3), np.float32), bitpix=-32, parnames=["a", "b"],
                           pardata=[np.arange(4.0), np.arange(4.0)])  # fmt: skip
    fits.HDUList([fits.GroupsHDU(group)]).writeto(tmp_path / "groups.fits")
    data = (tmp_path / "groups.fits").read_bytes()
    content = 4 * (2 + 6) * 4
    require_sane_cards(data[: 2880 + content])
    with pytest.raises(RejectedInput, match="1 bytes are missing"):
        require_sane_cards(data[: 2880 + content - 1])
    assert list(list_hdus(data)) == []
