"""A stain changes what it names, and the usual one nothing."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from wbcpipe.acquire.config.virtual_condition import Stain, VirtualCondition
from wbcpipe.acquire.simulation.specimen.biology import BIOLOGY, stained_classes
from wbcpipe.acquire.simulation.specimen.cells import cell_layers
from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
from wbcpipe.acquire.simulation.specimen.slide import Specimen, SpecimenObject


@pytest.fixture(scope="module")
def cell() -> SpecimenObject:
    specimen = Specimen(SpecimenPlan(3, "buffy-coat"))
    return next(item for item in specimen.objects_in(0, 0, 400, 400) if item.label == "NEU")


def test_the_usual_stain_changes_nothing(cell: SpecimenObject) -> None:
    assert stained_classes(Stain()) == dict(BIOLOGY.classes)
    plain, same = cell_layers(cell), cell_layers(cell, stained_classes(Stain()))
    np.testing.assert_array_equal(plain.emission, same.emission)
    np.testing.assert_array_equal(plain.absorbance, same.absorbance)


def test_a_stain_changes_emission_and_absorbance_of_what_it_names(cell: SpecimenObject) -> None:
    plain = cell_layers(cell)
    pale = cell_layers(cell, stained_classes(Stain(nucleus=0.5)))
    assert pale.emission.max() == pytest.approx(plain.emission.max() / 2, rel=0.1)
    np.testing.assert_array_equal(pale.absorbance, plain.absorbance)
    dark = cell_layers(cell, stained_classes(Stain(absorbance=(1, 2, 1))))
    np.testing.assert_array_equal(dark.emission, plain.emission)
    np.testing.assert_array_equal(dark.absorbance[[0, 2]], plain.absorbance[[0, 2]])
    assert dark.absorbance[1].max() > plain.absorbance[1].max()
    np.testing.assert_array_equal(dark.bend, plain.bend)


def test_a_stain_is_a_part_of_the_condition_and_never_negative() -> None:
    found = VirtualCondition.model_validate(
        {"stain": {"nucleus": 0.7, "absorbance": [0.5, 1.6, 0.7]}}
    )
    assert found.stain == Stain(nucleus=0.7, absorbance=(0.5, 1.6, 0.7))
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        Stain(cytoplasm=-1)
