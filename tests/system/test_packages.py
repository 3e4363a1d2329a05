"""A package that is not installed is named, with the command that installs it."""

from __future__ import annotations

import sys

import pytest

from wbcpipe.errors import MissingPackageError
from wbcpipe.system.packages import CLASSIFICATION, CORE, OptionalPackages, require


def test_packages_that_are_there_are_not_imported() -> None:
    require(OptionalPackages(("antigravity",), "pip install nothing"), "a joke")
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("packages", [CORE, CLASSIFICATION], ids=["core", "classification"])
def test_a_missing_package_is_named(
    packages: OptionalPackages, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = packages.modules[1]
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPackageError) as raised:
        require(packages, "classifying cells")
    text = str(raised.value)
    assert text.startswith(f"classifying cells needs the package {module.replace('_', '-')}, ")
    assert packages.install in text
    assert isinstance(raised.value, ImportError)
