"""Tables of text."""

from localsl.runs import display


def test_table_aligns():
    rows = [{"name": "a", "n": 5}, {"name": "long", "n": 12}]
    assert display.table(rows) == "name   n\na      5\nlong  12"
