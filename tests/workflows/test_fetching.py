"""Lists are fetched whole, and what stands in the way is said; without a network."""

import sys
from types import ModuleType
from typing import ClassVar

import pytest
from astropy.table import Table

from jaxmdwarf.cli import main
from jaxmdwarf.cli.fetch import Command
from jaxmdwarf.errors import UsageError, WorkFailed
from jaxmdwarf.io.tables import read_table
from jaxmdwarf.workflows.fetching import LISTS, fetch_lists


class Vizier:
    """Answers as astroquery's does."""

    tables: ClassVar[dict] = {}
    asked: ClassVar[list] = []

    def __init__(self, **options):
        Vizier.asked.append(options)

    def get_catalogs(self, source):
        answer = self.tables[source]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def vizier(monkeypatch):
    package, module = ModuleType("astroquery"), ModuleType("astroquery.vizier")
    module.Vizier = Vizier
    monkeypatch.setitem(sys.modules, "astroquery", package)
    monkeypatch.setitem(sys.modules, "astroquery.vizier", module)
    monkeypatch.setattr(Vizier, "asked", [])
    monkeypatch.setattr(Vizier, "tables", {})
    return Vizier


def test_all_rows_of_all_tables_are_written_with_their_units(vizier, tmp_path):
    one = Table({"Source": [5682674213417840640], "Per": [3.5], "Name": ["GJ 1"]})
    one["Per"].unit = "d"
    vizier.tables["I/357"] = [one, Table({"Source": [7, 8]})]
    vizier.tables["J/AJ/162/184/table1"] = [Table({"RAJ2000": [10.0], "DEJ2000": [5.0]})]
    done = fetch_lists(["gaia_non_single", "kounkel2021"], tmp_path / "lists")
    assert (done["gaia_non_single"], done["kounkel2021"]) == (3, 1)
    assert [one["row_limit"] for one in vizier.asked] == [-1, -1]
    assert vizier.asked[1]["column_filters"] == {"SBn": ">=2"}
    back = read_table(tmp_path / "lists" / "gaia_non_single.parquet")
    assert list(back.columns) == ["Source", "Per", "Name"]
    assert back["Source"].tolist() == [5682674213417840640, 7, 8]
    assert back.attrs["units"]["Per"] == "d"
    assert back.attrs["provenance"]["source"] == "VizieR I/357"
    with pytest.raises(UsageError, match="exists"):
        fetch_lists(["gaia_non_single"], tmp_path / "lists")


def test_without_a_network_it_says_so_and_writes_nothing(vizier, tmp_path, capsys):
    vizier.tables["B/sb9/main"] = ConnectionError("Name or service not known\nat length")
    assert main(["fetch", "sb9", "--out", str(tmp_path / "lists")]) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "could not be fetched from VizieR: Name or service not known. Remedy: check the" in line
    assert not list(tmp_path.rglob("*.parquet"))
    vizier.tables["B/sb9/main"] = []
    with pytest.raises(WorkFailed, match="no rows"):
        fetch_lists(["sb9"], tmp_path)


def test_bad_usage_is_told(vizier, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="no list 'sb8'"):
        fetch_lists(["sb8"], tmp_path)
    with pytest.raises(UsageError, match="no lists were named"):
        fetch_lists([], tmp_path)
    monkeypatch.setitem(sys.modules, "astroquery", None)
    monkeypatch.delitem(sys.modules, "astroquery.vizier")
    with pytest.raises(UsageError, match="needs the package astroquery"):
        fetch_lists(["sb9"], tmp_path)


def test_the_help_names_every_list():
    assert all(name in Command.__doc__ for name in LISTS)
    assert {one.kind for one in LISTS.values()} == {"variables", "binaries"}
