"""Barcodes are read however the label lies, and whatever the camera makes of it."""

from __future__ import annotations

import numpy as np
import pytest
import zxingcpp
from PIL import Image

from wbcpipe.acquire.config.slide_policies import BARCODE_FORMATS, Label
from wbcpipe.acquire.label.decode import Code, eight_bit, read_codes


def printed(text: str, kind: str = "DataMatrix", side_px: int = 512) -> Image.Image:
    """Paper with a code in its middle."""
    code = zxingcpp.create_barcode(text, getattr(zxingcpp.BarcodeFormat, kind))
    image = Image.fromarray(np.array(code.to_image(scale=1, add_quiet_zones=False)))
    scale = max(int(0.6 * side_px) // max(image.size), 1)
    image = image.resize(
        (image.width * scale, max(image.height * scale, 60)), Image.Resampling.NEAREST
    )
    paper = Image.new("L", (side_px, side_px), 255)
    paper.paste(image, ((side_px - image.width) // 2, (side_px - image.height) // 2))
    return paper


@pytest.mark.parametrize("kind", ["DataMatrix", "QRCode", "Aztec", "PDF417", "Code128", "Code39"])
def test_every_format_that_is_looked_for_by_default_is_read(kind: str) -> None:
    assert kind in BARCODE_FORMATS
    (code,) = read_codes(np.asarray(printed("S-4711", kind)), BARCODE_FORMATS)
    assert (code.text, code.format) == ("S-4711", kind)


@pytest.mark.parametrize("kind", ["DataMatrix", "Code128"])
@pytest.mark.parametrize("angle_deg", [90, 180, 35, -20])
def test_a_label_that_lies_askew_is_read(kind: str, angle_deg: float) -> None:
    image = printed("S-4711", kind).rotate(
        angle_deg, Image.Resampling.BILINEAR, fillcolor=255, expand=True
    )
    assert [code.text for code in read_codes(np.asarray(image), BARCODE_FORMATS)] == ["S-4711"]


@pytest.mark.parametrize(("contrast", "noise"), [(1.0, 0.0), (0.05, 0.0), (0.3, 0.08)])
def test_a_dim_or_noisy_image_of_16_bits_is_read(contrast: float, noise: float) -> None:
    paper = np.asarray(printed("S-4711")) / 255.0
    noisy = 0.2 + contrast * paper + np.random.default_rng(1).normal(0.0, noise, paper.shape)
    image = np.clip(20000 * noisy, 0, 65535).astype(np.uint16)
    assert [code.text for code in read_codes(image, ("DataMatrix",))] == ["S-4711"]


def test_nothing_is_made_up() -> None:
    noise = np.random.default_rng(1).integers(0, 255, (512, 512), dtype=np.uint8)
    assert read_codes(noise, BARCODE_FORMATS) == ()
    assert read_codes(np.full((64, 64), 200, np.uint8), BARCODE_FORMATS) == ()
    assert read_codes(np.asarray(printed("S-4711")), ("Code128",)) == ()


def test_all_codes_of_an_image_are_given_once() -> None:
    one, two = np.asarray(printed("S1")), np.asarray(printed("CASE 9", "QRCode"))
    codes = read_codes(np.hstack([one, two, one]), BARCODE_FORMATS)
    assert set(codes) == {Code("S1", "DataMatrix"), Code("CASE 9", "QRCode")}


def test_contrast_is_stretched_to_eight_bits() -> None:
    ramp = np.arange(1000, 2001, dtype=np.uint16).reshape(7, 143)
    assert (eight_bit(ramp).min(), eight_bit(ramp).max()) == (0, 255)


@pytest.mark.parametrize(
    ("pattern", "code", "slide"),
    [
        ("", "S1", "S1"),
        (r"[A-Z]+-(\d+)", "LAB-4711", "4711"),
        (r"[A-Z]+-(\d+)", "LAB-4711x", None),
        (r"(\d{5})\d", "471139", "47113"),
    ],
)
def test_a_pattern_takes_the_id_out_of_a_code(pattern: str, code: str, slide: str | None) -> None:
    assert Label(pattern=pattern).slide_id(code) == slide


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ({"pattern": "["}, "is not a regular expression"),
        ({"pattern": r"\d+"}, "has 0 groups; put the part that is the slide's id"),
        ({"pattern": "(a)(b)"}, "has 2 groups"),
        ({"method": "camera"}, "'device' belongs to method 'camera', and that method needs it"),
        ({"method": "scan"}, "method 'scan' needs 'positions_um'"),
        ({"area_um": (10, 10)}, "'area_um' belongs to method 'scan'"),
        ({"crop": (0.5, 0.0, 0.5, 1.0)}, "'crop' .* is empty"),
        ({"formats": ("Data Matrix",)}, "DataMatrix"),
        ({"formats": ()}, "at least 1"),
    ],
)
def test_a_label_that_cannot_be_read_is_refused(policy: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Label.model_validate(policy)
