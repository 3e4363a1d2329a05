"""A small sample, the server of the review in a thread, and a real browser."""

from __future__ import annotations

import shutil
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from wbcpipe.acquire.simulation.optics.light_path import OpticalState
from wbcpipe.acquire.simulation.optics.microscope import VirtualMicroscope
from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
from wbcpipe.acquire.simulation.specimen.slide import Specimen
from wbcpipe.laboratory.lab_file import find_lab
from wbcpipe.samples.cell_attributes import CellAttributes
from wbcpipe.samples.cell_columns import CLASSES, UNIDENTIFIED
from wbcpipe.samples.cell_store import CellBlock, CellStore
from wbcpipe.samples.classification_record import Classification
from wbcpipe.samples.differential_record import RiskControl
from wbcpipe.samples.fields import FieldInfo, FrameInfo, field_path, write_field
from wbcpipe.samples.records import SampleRecord
from wbcpipe.samples.sample import Sample
from wbcpipe.segment.run import segment_sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, BrowserContext, Page

MODALITIES = ("color1", "color2", "color3", "fluorescence")
SIDE = 32
PER_FIELD = 12
FIELD_PX = 640
DRAWN = 200
"""Cells that are drawn for a sample; further ones look like these."""
LAB = """
version = "test"

[[extra_class]]
name = "SMUDGE"
meaning = "smudge cell"
key = "s"

[[extra_class]]
name = "BLAST"
meaning = "blast"
key = "t"
white_cell = true
"""


def _images(number: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw cells (N, 4, side, side) uint16, one or three lobes each, and their masks."""
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    cell = np.hypot(y, x) < 0.36 * SIDE
    images = np.empty((number, 4, SIDE, SIDE), np.uint16)
    masks = np.empty((number, SIDE, SIDE), np.uint8)
    for index in range(number):
        centres = rng.uniform(-0.14 * SIDE, 0.14 * SIDE, (1 + 2 * (index % 2), 2))
        nucleus = np.any([np.hypot(y - cy, x - cx) < 0.15 * SIDE for cy, cx in centres], axis=0)
        for channel in range(3):
            images[index, channel] = 50000 - 6000 * (channel + 1) * cell - 9000 * nucleus
        images[index, 3] = 2000 + 6000 * cell + 30000 * nucleus
        masks[index] = cell.astype(np.uint8) + nucleus
    return images, masks


def _columns(number: int, rng: np.random.Generator) -> dict[str, Any]:
    field_index = np.arange(number) // PER_FIELD
    y_px, x_px = rng.uniform(20, 480, number), rng.uniform(20, 480, number)
    zeros = np.zeros(number)
    return {
        "field_index": field_index,
        "y_px": y_px,
        "x_px": x_px,
        "y_um": 60.0 * (field_index // 8) + 0.1 * y_px,
        "x_um": 60.0 * (field_index % 8) + 0.1 * x_px,
        "area_um2": rng.uniform(80, 220, number),
        "nucleus_area_um2": zeros + 50,
        "sharpness": zeros + 1,
        "shift_px": np.zeros((number, 3, 2)),
        "shift_residual_px": np.zeros((number, 3)),
        "qc_flags": np.where(np.arange(number) % 17 == 16, 8, 0).astype(np.uint16),
    }


def write_sample(root: Path, name: str, number: int) -> Sample:
    """Write a classified sample of drawn cells: a few are unidentified, and on some the heads
    differ.
    """
    rng = np.random.default_rng(number)
    calls = rng.choice(5, number, p=[0.62, 0.26, 0.06, 0.05, 0.01])
    confidence = np.clip(1 - rng.exponential(0.1, number), 0.3, 1).astype(np.float32)
    heads = np.where(rng.random((number, 4)) < 0.95, calls[:, None], (calls[:, None] + 1) % 5)
    sample = Sample.open(root, name)
    sample.write(SampleRecord.model_validate({"sample": name}))
    images, masks = _images(min(number, DRAWN), rng)
    images, masks = (np.resize(each, (number, *each.shape[1:])) for each in (images, masks))
    block = CellBlock(
        images=images, masks=masks, columns=_columns(number, rng), label=[""] * number
    )
    attributes = CellAttributes(
        modalities=MODALITIES,
        pixel_um=0.25,
        classes=CLASSES,
        field_quality={},
        provenance={"software": "test"},
    )
    _classify(CellStore.create(sample.cells_path, [block], attributes), calls, heads, confidence)
    return sample


def _classify(
    store: CellStore, calls: np.ndarray, heads: np.ndarray, confidence: np.ndarray
) -> None:
    """Write classes: those of the heads (N, 4), all together (N,), and how sure they are (N,)."""
    probability = np.full((len(calls), 4, 5), 0.02, np.float32)
    np.put_along_axis(probability, heads[..., None], 0.92, axis=2)
    store.write_predictions(
        probability,
        [UNIDENTIFIED if c < 0.5 else CLASSES[k] for k, c in zip(calls, confidence, strict=True)],
        confidence,
        (heads != calls[:, None]).mean(axis=1).astype(np.float32),
        classification=Classification(
            bundle="test-bundle",
            sha256="c" * 64,
            classes=CLASSES,
            heads=MODALITIES,
            threshold=0.5,
            risk_control=RiskControl(
                error_bound=0.05, confidence=0.95, cells=150, assumption="of the same kind"
            ),
        ),
    )


def write_slide(root: Path, name: str) -> Sample:
    """Write two fields of the virtual scope, segmented.

    The classes of the cells are not a model's.
    """
    sample = Sample.open(root, name)
    sample.write(SampleRecord(sample=name, modalities=MODALITIES))
    sample.raw_path().mkdir(parents=True)
    specimen = Specimen(SpecimenPlan(seed=11, preparation="buffy-coat"))
    scope = VirtualMicroscope(specimen, sensor_px=(FIELD_PX, FIELD_PX), pixel_um=0.1)
    for index, x_um in enumerate((500.0, 560.0)):
        z_um = specimen.focus_um(x_um, 700.0)
        states = [
            OpticalState(x_um, 700.0, z_um, light, 5.0 + 15.0 * (light == "fluorescence"))
            for light in MODALITIES
        ]
        info = FieldInfo(
            index,
            x_um,
            700.0,
            0.1,
            tuple(FrameInfo(state.light, state.exposure_ms) for state in states),
        )
        write_field(
            field_path(sample.raw_path(), index),
            np.stack([scope.expose(state) for state in states]),
            info,
        )
    store = segment_sample(sample, pixel_um=0.1)
    calls = np.arange(len(store)) % 5
    _classify(
        store, calls, np.repeat(calls[:, None], 4, axis=1), np.full(len(store), 0.9, np.float32)
    )
    return sample


@dataclass
class Site:
    """A running server.

    Attributes:
        url: its address.
        root: its data root.
        begin: begins a session of a reader and returns the secret of its cookie.
        cookie: name of that.
        samples: names of the samples that tests made.
    """

    url: str
    root: Path
    begin: Callable[[str], str]
    cookie: str
    samples: list[str] = field(default_factory=list)

    def login(self, browser: Browser, reader: str, **options: Any) -> BrowserContext:
        """Return a browser context in which a reader is logged in."""
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        context.set_default_timeout(10_000)
        context.add_cookies([{"name": self.cookie, "value": self.begin(reader), "url": self.url}])
        return context


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The server of the review on a data root that is empty at first."""
    uvicorn = pytest.importorskip("uvicorn", reason="the server needs the extra `review`")
    from wbcpipe.review.server.address import ServerAddress, listen
    from wbcpipe.review.server.app import ReviewApp
    from wbcpipe.review.server.guard import cookie_name
    from wbcpipe.review.server.options import ServerOptions

    root = tmp_path_factory.mktemp("review-page") / "data"
    root.mkdir()
    (root / "lab.toml").write_text(LAB)
    listening = listen("127.0.0.1", 0)
    address = ServerAddress("127.0.0.1", listening.getsockname()[1])
    options = ServerOptions(root=root, address=address, lab=find_lab(root))
    app = ReviewApp(options)
    config = uvicorn.Config(
        app.asgi, http="h11", ws="none", lifespan="off", log_config=None, access_log=False
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    yield Site(address.url, root, options.sessions.begin, cookie_name(address))
    server.should_exit = server.force_exit = True
    thread.join(10)
    listening.close()
    app.close()


_chromium = ExitStack()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """End Chromium with the last of these tests: it keeps an event loop running in this thread, in
    which others run one of their own.
    """
    if nextitem is None or not nextitem.path.is_relative_to(Path(__file__).parent):
        _chromium.close()


@pytest.fixture(scope="session")
def browser() -> Browser:
    """A headless Chromium."""
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is missing: pip install 'wbcpipe[browser]'"
    )
    path = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if path is None:
        pytest.skip("no Chromium on the path: install the package `chromium`")
    playwright = _chromium.enter_context(sync_api.sync_playwright())
    found: Browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
    _chromium.callback(found.close)
    return found


@pytest.fixture
def make_sample(site: Site) -> Callable[..., Sample]:
    """Write a sample below the data root of the server, by default under a new name.

    See `write_sample`.
    """

    def make(number: int = 60, name: str = "") -> Sample:
        site.samples.append(name or f"S{len(site.samples) + 1}")
        return write_sample(site.root, site.samples[-1], number)

    return make


@pytest.fixture
def slide(site: Site) -> Sample:
    """A sample with its fields; see `write_slide`."""
    site.samples.append(f"slide{len(site.samples)}")
    return write_slide(site.root, site.samples[-1])


@pytest.fixture
def open_review(site: Site, browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open the review page of the last sample as a reader.

    A fault in a script fails the test that opened it.
    """
    faults: list[str] = []
    contexts: list[BrowserContext] = []

    def open_page(
        reader: str = "anna", context: BrowserContext | None = None, **options: Any
    ) -> Page:
        if context is None:
            context = site.login(browser, reader, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "console",
            lambda message: (
                faults.append(message.text) if "Content Security" in message.text else None
            ),
        )
        page.goto(f"{site.url}/samples/{site.samples[-1]}")
        page.wait_for_selector("body[data-ready]", timeout=30_000)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not faults
