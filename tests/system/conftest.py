"""Before the first process of a pipeline starts, everything is compiled: as the scripts do after an installation."""

from __future__ import annotations

from pathlib import Path

import pytest

from tapewatch.warm import warm


@pytest.fixture(scope="session", autouse=True)
def _compiled() -> None:
    warm()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Every test of this folder is slow: who wants none of those need not import what they use."""
    return True if config.option.markexpr == "not slow" and collection_path.name.startswith("test_") else None
