"""Lines of a TOML text: where a table or a key is."""

from __future__ import annotations

import pytest

from tapewatch.tomllines import line_in, table_lines

TEXT = '''# rules
top = 1

[one]          # the first
a = 1
text = """
[two]
b = 3
"""
list = [
  "x", # ] not here
  "[three]",
]
after = { b = 2 }

# of two
[two]
b = 4
"quoted key" = 5
sub.c = 6

[channels."my phone"]
kind = "ntfy"
# the end
'''


@pytest.mark.parametrize(
    ("table", "key", "line"),
    [
        ("one", None, 4),
        ("one", "a", 5),
        ("one", "list", 10),
        ("one", "after", 14),
        ("two", None, 17),
        ("two", "b", 18),
        ("two", "quoted key", 19),
        ("two", "missing", 17),
        ("two.sub", "c", 20),
        ("channels", None, 22),
        ("channels.my phone", "kind", 23),
        ("three", "x", None),
        ("", "top", None),
    ],
)
def test_the_line_of_a_key_or_of_its_table(table: str, key: str | None, line: int | None) -> None:
    assert line_in(TEXT, table, key) == line


def test_the_part_of_a_table_ends_before_the_comments_of_the_next() -> None:
    lines = TEXT.splitlines()
    assert table_lines(TEXT, "one") == (3, 14)
    assert table_lines(TEXT, "two") == (16, 20)
    assert table_lines(TEXT, "channels.my phone") == (21, len(lines))
    assert table_lines(TEXT, "three") is None
