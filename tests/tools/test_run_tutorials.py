"""The tutorials are found, and their cells are those of the text."""

import json

import pytest
from run_tutorials import list_cells, list_tutorials, run_cell

TEXT = """# A page

```{code-cell} ipython3
:tags: [remove-cell]

%matplotlib inline
a = 3
```

```python
a = 4
```

```{code-cell} ipython3
a += 1
shown(a)
```
"""


def test_cells_run_in_one_scope_without_magics(tmp_path):
    (tmp_path / "page.md").write_text(TEXT, encoding="utf-8")
    cells = [{"cell_type": "code", "source": ["%magic\n", "a = 3"]}, {"cell_type": "markdown"}]
    cells += [{"cell_type": "code", "source": ["a += 1\n", "shown(a)"]}]
    (tmp_path / "page.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")
    for name in ("page.md", "page.ipynb"):
        seen = []
        scope = {"shown": seen.append}
        for cell in list_cells(tmp_path / name):
            run_cell(cell, scope, name)
        assert seen == [4]


def test_what_a_cell_shows_is_made_and_a_failure_is_told():
    class Shown:
        def _repr_html_(self):
            raise ValueError("cannot be shown")

    with pytest.raises(ValueError, match="cannot be shown"):
        run_cell("1\nvalue", {"value": Shown()}, "a page")
    with pytest.raises(NameError):
        run_cell("missing", {}, "a page")


def test_all_pages_of_the_tutorials_have_cells():
    paths = list_tutorials()
    assert len(paths) == 5
    assert all(list_cells(path) for path in paths)
