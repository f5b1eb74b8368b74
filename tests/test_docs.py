"""What the documentation names is there."""

import re

from tests.conftest import ROOT


def test_every_test_that_the_table_of_faults_names_exists():
    table = (ROOT / "docs" / "reliability.md").read_text()
    named = re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", table)
    assert len(named) >= 20
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests" / file).read_text() or not test, f"{file}::{test}"
