"""The tables of the documentation are those of the registry."""

from measure_tables import PAGE, tables, with_tables


def test_the_page_holds_the_tables_of_the_registry():
    assert PAGE.read_text() == with_tables(PAGE.read_text()), (
        "run: python tests/measure_tables.py; the tables are\n\n" + "\n\n".join(tables().values())
    )
