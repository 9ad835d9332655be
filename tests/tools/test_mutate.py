"""The mutation runner: what it leaves alone, which tests it runs, what counts."""

import ast

import pytest

from tests.tools import mutate
from tests.tools.mutate import Mutant, choose_tests, find_mutants, score

SOURCE = '''\
"""1 + 1"""
from functools import cache

Kind = int | float
N: int | None = 3 + 4


@cache
def f(x: int | None = 1 + 2, *, y=0) -> int | None:
    if x > 2:
        raise ValueError(f"{x - 1} is too much")
    name = f"row{x - 1}"
    return [a * b for a, b in zip(name, name, strict=True)]
'''


def open_lines(kinds):
    spans = [span for span, kind in mutate._closed_spans(ast.parse(SOURCE)) if kind in kinds]
    found = set()
    for node in ast.walk(ast.parse(SOURCE)):
        if isinstance(node, ast.BinOp | ast.Compare | ast.Constant):
            at = node.lineno, node.col_offset
            if not any(low <= at < high for low, high in spans):
                found.add((node.lineno, ast.unparse(node)))
    return found


def test_texts_for_people_and_for_type_checkers_are_left_alone():
    found = open_lines({"text"})
    assert {(5, "3 + 4"), (9, "1 + 2"), (10, "x > 2"), (12, "x - 1"), (13, "a * b")} <= found
    assert not {(4, "int | float"), (5, "int | None"), (9, "int | None"), (13, "True")} & found
    assert (11, "x - 1") not in found


def test_tests_that_should_notice_come_nearest_first():
    assert [test for distance, test in mutate.tests_of("jaxmdwarf/lsf.py") if distance == 0] == [
        "jaxmdwarf/lsf.py",  # its examples
        "tests/test_lsf.py",
    ]
    # Imported inside of functions alone, by modules that tests import.
    assert "tests/io/test_tables.py" in {test for _, test in mutate.tests_of("jaxmdwarf/io/mrt.py")}
    seconds = dict.fromkeys((test for _, test in mutate.tests_of("jaxmdwarf/lsf.py")), 30.0)
    chosen = choose_tests("jaxmdwarf/lsf.py", {**seconds, "jaxmdwarf/lsf.py": 1.0}, 35.0)
    assert chosen == ["jaxmdwarf/lsf.py", "tests/test_lsf.py"]


def test_equivalent_mutants_and_waiting_ones_do_not_count():
    module = "jaxmdwarf/simulate/visits.py"
    same = (
        "starts = np.flatnonzero(np.r_[True, np.diff(sorted_place) > 0])",
        "starts = np.flatnonzero(np.r_[True, np.diff(sorted_place) != 0])",
    )
    told = [
        Mutant(module, 1, "", 0, *same, outcome="survived"),
        Mutant(module, 1, "", 0, "a", "b", outcome="survived"),
        Mutant(module, 1, "", 0, "a", "c", outcome="killed"),
        Mutant(module, 1, "", 0, "a", "d", outcome="timeout"),
        Mutant("jaxmdwarf/lsf.py", 1, "", 0, "a", "e"),
    ]
    lines = score(told).split("\n")
    assert [line.split() for line in lines] == [
        ["lsf", "0", "of", "0", "killed", "-", "1", "pending"],
        ["simulate", "2", "of", "3", "killed", "67%", "1", "equivalent"],
        ["all", "2", "of", "3", "killed", "67%", "1", "equivalent,", "1", "pending"],
    ]


def test_mutants_are_changes_of_behaviour_that_compile(tmp_path):
    pytest.importorskip("cosmic_ray")
    path = tmp_path / "module.py"
    path.write_text(SOURCE)
    made = [
        (line, operator, changed.split("\n")[line - 1])
        for line, operator, occurrence in find_mutants(path)
        if (changed := mutate.mutate(SOURCE, operator, occurrence)) is not None
    ]
    assert {line for line, _, _ in made} == {5, 9, 10, 12, 13}
    assert (10, "ReplaceComparisonOperator_Gt_GtE", "    if x >= 2:") in made
    assert not [one for one in made if "RemoveDecorator" in one[1] or "<<" in one[2]]
    assert len(set(made)) == len(made)
