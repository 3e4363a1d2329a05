"""Fixtures for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real pictures beside the checkout."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real pictures are not there: {SHARED_DATA}")
    return SHARED_DATA
