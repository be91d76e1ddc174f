"""What docs/ says is there is there: linked files, and the tests named beside them."""

import re

import pytest
from conftest import ROOT

PAGES = sorted((ROOT / "docs").glob("*.md"))
LINK = re.compile(r"\[[^\]]+\]\(([^)#:]+)\)((?:\s*`test_\w+`)*)")
"""A link within the repository, and the names of tests that follow it."""


def test_there_are_pages():
    assert {"determinism.md", "gates.md"} <= {path.name for path in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_links_lead_to_files_and_the_tests_that_they_name(page):
    links = LINK.findall(page.read_text(encoding="utf-8"))
    assert links
    for target, named in links:
        path = (page.parent / target).resolve()
        assert path.is_file(), target
        for test in re.findall(r"test_\w+", named):
            assert f"def {test}(" in path.read_text(encoding="utf-8"), f"{target}: {test}"


def test_every_gate_names_a_test():
    rows = [line for line in (ROOT / "docs/gates.md").read_text(encoding="utf-8").splitlines() if line[:2] == "| "]
    rows = [row for row in rows if not row.startswith(("| what would", "| ---"))]
    assert len(rows) > 30
    assert all(re.search(r"\]\(\.\./tests/\S+\) `test_\w+` ?[|;]", row) for row in rows)
