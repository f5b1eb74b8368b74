"""Tables printed as text."""

from localsl.runs import display


def test_columns_of_a_table_are_aligned():
    rows = [{"name": "a", "n": 5}, {"name": "long", "n": 12}]
    assert display.table(rows) == "name   n\na      5\nlong  12"
