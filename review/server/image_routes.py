"""Routes of images: cells, outlines, fields, the slide map, and the order of similar cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.exceptions import HTTPException
from starlette.routing import Route

from wbcpipe.review.images.similar import order_by_similarity
from wbcpipe.review.images.strips import TILE_PX
from wbcpipe.review.server.answers import Json, image_answer
from wbcpipe.review.server.review_answers import open_reading

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

    from wbcpipe.review.server.open_samples import OpenSample, OpenSamples

__all__ = ["ImageRoutes"]

_MAX_CHOSEN: Final = 100


class ImageRoutes:
    """Answers with images.

    Args:
        samples: those under review.
    """

    def __init__(self, samples: OpenSamples) -> None:
        self._samples = samples

    def routes(self, prefix: str) -> list[BaseRoute]:
        """Return the routes below ``prefix``, which has the parameter ``name`` of a sample."""
        return [
            Route(f"{prefix}/strips/{{row:int}}.webp", self.strip),
            Route(f"{prefix}/outlines/{{row:int}}.json", self.outlines),
            Route(f"{prefix}/similar", self.similar),
            Route(f"{prefix}/fields/{{index:int}}.webp", self.field_image),
            Route(f"{prefix}/fields/{{index:int}}.json", self.field),
            Route(f"{prefix}/map", self.slide_map),
        ]

    def _opened(self, request: Request) -> OpenSample:
        return self._samples.get(request.path_params["name"])

    def _opened_row(self, request: Request) -> tuple[OpenSample, int]:
        sample, row = self._opened(request), request.path_params["row"]
        if row >= len(sample):
            raise HTTPException(404, f"There is no cell {row}: the sample has {len(sample)}.")
        return sample, row

    def _opened_field(self, request: Request) -> tuple[OpenSample, int]:
        sample, index = self._opened(request), request.path_params["index"]
        if not sample.fields.has(index):
            raise HTTPException(404, f"There is no field {index} with all its frames.")
        return sample, index

    def strip(self, request: Request) -> Response:
        """A cell's modalities side by side; with ``side``, at their stored size."""
        sample, row = self._opened_row(request)
        full = request.query_params.get("side", str(TILE_PX)) != str(TILE_PX)
        webp = sample.images.full_strip(row) if full else sample.images.strip(row)
        return image_answer(webp, immutable=_is_current(request, sample))

    def outlines(self, request: Request) -> Response:
        """The outlines of a cell and of its nucleus."""
        sample, row = self._opened_row(request)
        headers = (
            {"cache-control": "private, max-age=31536000, immutable"}
            if _is_current(request, sample)
            else {}
        )
        return Json(sample.images.outlines(row), headers=headers)

    def similar(self, request: Request) -> Response:
        """All cells, the most similar to the chosen ones first."""
        sample = self._opened(request)
        with sample.journal.held():
            if open_reading(sample.journal.state(), request.state.reader) is not None:
                raise HTTPException(
                    409, "In a blind reading, cells are not sorted by what the model says of them."
                )
        return Json({"order": order_by_similarity(sample.features, _rows(request, len(sample)))})

    def field_image(self, request: Request) -> Response:
        """One modality of a field."""
        sample, index = self._opened_field(request)
        modality = request.query_params.get("modality", sample.fields.choices[0])
        if modality not in sample.fields.choices:
            raise HTTPException(
                404, f"There is no such modality; there are {', '.join(sample.fields.choices)}."
            )
        return image_answer(
            sample.fields.image(index, modality), immutable=_is_current(request, sample)
        )

    def field(self, request: Request) -> Response:
        """The size of a field and its cells with their outlines."""
        sample, index = self._opened_field(request)
        return Json(sample.describe_field(index))

    def slide_map(self, request: Request) -> Response:
        """The fields and cells of the slide, and its focus."""
        return Json(self._opened(request).map)


def _is_current(request: Request, sample: OpenSample) -> bool:
    return request.query_params.get("v") == sample.images.digest


def _rows(request: Request, cells: int) -> list[int]:
    """Return the rows that a query names.

    Raises:
        HTTPException: there are none, too many, or one that the sample does not have.
    """
    words = request.query_params.get("rows", "").split(",")
    if len(words) > _MAX_CHOSEN or not all(
        word.isascii() and word.isdecimal() and len(word) < 9 for word in words
    ):
        raise HTTPException(
            400, f"`rows` must be 1 to {_MAX_CHOSEN} numbers of cells with commas between them."
        )
    rows = [int(word) for word in words]
    if max(rows) >= cells:
        raise HTTPException(404, f"There is no cell {max(rows)}: the sample has {cells}.")
    return rows
