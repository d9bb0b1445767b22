"""How often the tests try: little by default, so that the quick ones are quick, and as often as one likes by hand.

TAPEWATCH_EXAMPLES=20 ./run_tests.sh fast      twenty times as many examples of every property
"""

from __future__ import annotations

import os
from typing import Final

TIMES: Final = int(os.environ.get("TAPEWATCH_EXAMPLES", "1"))


def examples(count: int) -> int:
    """So many examples of a property, times what TAPEWATCH_EXAMPLES says."""
    return count * TIMES
