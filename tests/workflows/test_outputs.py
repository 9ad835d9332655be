"""What stands in the way of an output is told before any work."""

import os

import pytest

from jaxmdwarf.errors import UsageError
from jaxmdwarf.workflows import outputs
from jaxmdwarf.workflows.outputs import require_folder, require_output, require_rejects


def test_a_free_name_in_a_folder_to_be_is_fine(tmp_path):
    assert require_output(tmp_path / "new" / "deep" / "T.fits") == tmp_path / "new" / "deep/T.fits"
    (tmp_path / "empty").mkdir()
    require_output(tmp_path / "empty", mark="model.json")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_files_and_folders_are_not_taken_for_each_other(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is a folder"):
        require_output(tmp_path, overwrite=True)
    with pytest.raises(UsageError, match="is a file"):
        require_output(tmp_path / "file", mark="model.json", overwrite=True)
    with pytest.raises(UsageError, match="is a file, not a folder"):
        require_output(tmp_path / "file" / "T.fits")


def test_what_lies_beside_is_protected_too(tmp_path):
    (tmp_path / "sheets").mkdir()
    (tmp_path / "sheets" / "round_1.png").write_text("x")
    with pytest.raises(UsageError, match="sheets exists"):
        require_output(tmp_path / "list.txt", beside=[tmp_path / "sheets"])
    require_output(tmp_path / "list.txt", beside=[tmp_path / "sheets"], overwrite=True)


def test_two_tables_of_one_name_do_not_share_their_rejects(tmp_path):
    rejects = tmp_path / "T_rejects.csv"
    assert require_rejects(tmp_path / "T.fits") == rejects
    # Left of a run that ended without a table, or of this very table: they may be written anew.
    rejects.write_text("path\n")
    assert require_rejects(tmp_path / "T.fits") == rejects
    (tmp_path / "T.fits").write_text("rows")
    assert require_rejects(tmp_path / "T.fits") == rejects
    for other in ("T.csv", "T.fits.gz", "T"):
        with pytest.raises(
            UsageError, match=r"T_rejects\.csv holds the rejects of .*T\.fits"
        ) as bad:
            require_rejects(tmp_path / other)
        assert "--out" in bad.value.remedy
        assert "--overwrite" in bad.value.remedy
        assert require_rejects(tmp_path / other, overwrite=True) == rejects
    assert require_rejects(tmp_path / "T2.csv") == tmp_path / "T2_rejects.csv"


def test_a_model_may_be_replaced_by_a_model_and_nothing_else(tmp_path):
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(UsageError, match="exists") as caught:
        require_output(tmp_path, mark="model.json")
    assert "--overwrite" in caught.value.remedy
    require_output(tmp_path, mark="model.json", overwrite=True)
    with pytest.raises(UsageError, match=r"holds no survey\.json"):
        require_output(tmp_path, mark="survey.json", overwrite=True)


def test_an_unwritable_folder_is_told(tmp_path, monkeypatch):
    # Permissions mean nothing to the superuser, who runs many a test.
    monkeypatch.setattr(outputs.os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(UsageError, match="cannot be written to"):
        require_output(tmp_path / "T.fits")
    with pytest.raises(UsageError, match="cannot be written to"):
        require_folder(tmp_path / "a" / "b")


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="a folder that nobody may write to")
def test_a_folder_of_the_kernel_is_told(tmp_path):
    from jaxmdwarf.workflows.run import open_output

    with pytest.raises(UsageError, match=r"write|make"):
        open_output("/proc/T.fits", kind="a fit", about={}).__enter__()


def test_a_full_disk_is_told_with_both_sizes(tmp_path):
    with pytest.raises(UsageError, match=r"about 1000000000\.0 GB are needed and \d+\.\d [GM]B"):
        require_output(tmp_path / "T.fits", n_bytes=10**18)
