"""Routes of the cell-location test: the fields of a day, and the result of a reader's marks."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from starlette.exceptions import HTTPException
from starlette.routing import Route

from wbcpipe.review.proficiency.cell_location import FIELDS, draw_fields, score_cell_location
from wbcpipe.review.proficiency.records import LocationResult, append_result, read_results
from wbcpipe.review.proficiency.trend import find_trend
from wbcpipe.review.server.answers import Json, read_object
from wbcpipe.samples.fields import complete_fields

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

    from wbcpipe.review.server.open_samples import OpenSample, OpenSamples

__all__ = ["LocationRoutes"]

_SHOWN: Final = 30


class LocationRoutes:
    """Answers about the cell-location test.

    Args:
        samples: those under review.
    """

    def __init__(self, samples: OpenSamples) -> None:
        self._samples = samples

    def routes(self, prefix: str) -> list[BaseRoute]:
        """Return the routes below ``prefix``, which has the parameter ``name`` of a sample."""
        path = f"{prefix}/location-test"
        return [Route(path, self.fields), Route(path, read_object(self.score), methods=["POST"])]

    def _opened(self, request: Request) -> OpenSample:
        return self._samples.get(request.path_params["name"])

    def fields(self, request: Request) -> Response:
        """Return the fields to look through today, and the earlier results."""
        sample = self._opened(request).sample
        complete = complete_fields(sample.path / "raw")
        drawn = draw_fields(sample.name, complete, FIELDS, day=datetime.now(UTC).date().isoformat())
        return Json({"fields": drawn, **self._history(sample.record().scope)})

    def score(self, request: Request, body: dict[str, Any]) -> Response:
        """Score the marks that the reader wrote to the journal in these fields, and keep the
        result.
        """
        sample = self._opened(request).sample
        given = body.get("fields")
        whole = isinstance(given, list) and all(type(index) is int for index in given)
        if not whole or not given or not set(given) <= set(complete_fields(sample.path / "raw")):
            raise HTTPException(
                400, "`fields` must be the indices of the fields that were looked through."
            )
        result = score_cell_location(sample, request.state.reader, given)
        append_result(self._samples.root, result)
        return Json(
            {"result": result.model_dump(mode="json"), **self._history(sample.record().scope)}
        )

    def _history(self, scope: Any) -> dict[str, Any]:
        """Return the results of a microscope, and their trend."""
        name = scope.name if scope else ""
        found = [
            item for item in read_results(self._samples.root, LocationResult) if item.scope == name
        ]
        trend = find_trend([item.date for item in found], [item.percent for item in found])
        return {
            "results": [item.model_dump(mode="json") for item in found[-_SHOWN:]],
            "trend": asdict(trend),
        }
