"""From equations to code to tests: the links of the book are whole, and a broken one is found."""

from pathlib import Path

import nbformat
import pytest

from nvs_book import equations
from nvs_book.equations import TestFunction as Reached

ROOT = Path(__file__).parent.parent
EQ = "eq"  # so that nothing in this file looks like a citation


def test_every_equation_of_the_book_has_code_and_every_cited_function_a_test():
    traces = equations.trace_book(ROOT)
    assert [f"{followed.chapter}: {fault}" for followed in traces for fault in followed.faults] == []
    assert sum(len(followed.rows) for followed in traces) >= 35


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$$a \\tag{1}$$\n\nand\n\n$$\nb\n\\tag{R2}\n$$", ["1", "R2"]),
        ("\\begin{align}\na \\tag{1} \\\\\nb \\tag{2}\n\\end{align}", ["1", "2"]),
        ("$$a$$ and `\\tag{3}`", []),
        ("```\n$$ \\tag{9} $$\n```", []),
    ],
)
def test_tags(text, expected):
    assert equations.tags(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"({EQ}. 3)", ["3"]),
        (f"{EQ}s. 1 and 2", ["1", "2"]),
        (f"{EQ}s. 1, 2 and N4", ["1", "2", "N4"]),
        (f"{EQ}s. 3\N{EN DASH}6", ["3", "4", "5", "6"]),
        (f"the exponent of {EQ}. 3, and {EQ}. 3 again", ["3"]),
        ("frequency 3, sequel. 4, eq 5", []),
    ],
)
def test_cited(text, expected):
    assert equations.cited(text) == expected


def chapter(*cells: tuple[str, str]) -> list:
    make = {"text": nbformat.v4.new_markdown_cell, "code": nbformat.v4.new_code_cell}
    return [make[kind](source, id=f"c{number}") for number, (kind, source) in enumerate(cells)]


FORMULA = ("text", "$$y = 2x \\tag{1}$$")
DOUBLE = f'#| export\ndef double(x):\n    "Twice ({EQ}. 1)."\n    return 2 * x'
SOLUTION = f"def f(x):\n    # {EQ}. 1\n    ### BEGIN SOLUTION\n    ### END SOLUTION"
TEST = Reached("test_twice", "test_it", frozenset({"double"}), frozenset({"twice"}))


@pytest.mark.parametrize(
    ("cells", "tests", "faults"),
    [
        ([FORMULA, ("code", DOUBLE)], [TEST], []),
        ([FORMULA, ("code", f"assert y == 2 * x  # {EQ}. 1")], [], []),
        ([FORMULA], [TEST], ["no code cites eq. 1"]),
        ([FORMULA, FORMULA, ("code", DOUBLE)], [TEST], ["eq. 1 stands there more than once"]),
        ([("code", DOUBLE)], [TEST], ["double cites eq. 1, which is not there"]),
        ([FORMULA, ("code", DOUBLE)], [], ["double cites an equation, and no test reaches it"]),
        ([FORMULA, ("code", f"#| eval: false\nassert y == 2 * x  # {EQ}. 1")], [], ["no code cites eq. 1"]),
        ([FORMULA, ("code", SOLUTION)], [], ["no code cites eq. 1"]),
    ],
)
def test_broken_links_are_named(cells, tests, faults):
    found = equations.trace("10_twice", chapter(*cells), "twice", DOUBLE, tests)
    assert list(found.faults) == faults


def test_citation_belongs_to_the_innermost_definition():
    source = f"#| export\nclass A:\n    'First ({EQ}. 1).'\n\n    def f(self):\n        return 1  # {EQ}. 2\n\n\nX = 3  # {EQ}. 3"
    found = equations.cell_citations("cell", source)
    assert [(citation.number, citation.name) for citation in found] == [("1", "A"), ("2", "A.f"), ("3", None)]


def test_tests_reach_through_helpers_fixtures_and_callers(tmp_path):
    (tmp_path / "test_twice.py").write_text("""
import pytest
from lib import twice as tw
from lib.other import thing

CASES = [tw.double]

def helper(x):
    return tw.halve(x)

@pytest.fixture
def made():
    return tw.Made().value

def test_helper():
    helper(1)

def test_fixture(made):
    pass

@pytest.mark.parametrize("f", CASES)
def test_cases(f):
    pass

def test_local():
    helper = 1
    return helper
""")
    tests = equations.read_tests(tmp_path, "lib")
    code = """
def _inner(x): return x
def double(x): return _inner(x)
def halve(x): return x
class Made:
    @property
    def value(self): return 1
    def forward(self): return 2
def alone(x): return x
"""

    def names(name, module="twice"):
        return [test.name for test in equations.tests_of(name, module, code, tests)]

    assert names("halve") == ["test_helper"]
    assert names("double") == ["test_cases"]
    assert names("_inner") == ["test_cases"]
    assert names("Made.value") == ["test_fixture"]
    assert names("Made.forward") == ["test_fixture"]
    assert names("alone") == []
    assert names("halve", "elsewhere") == []
