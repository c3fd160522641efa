"""The page lists every slow test, and no other."""

from slow_list import PAGE, with_table


def test_the_page_lists_them_all():
    page = PAGE.read_text("utf-8")
    assert with_table(page) == page, "python tests/slow_list.py --write"
