"""The application: routes behind the guard."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from starlette.applications import Starlette
from starlette.routing import Route

from wbcpipe.review.server.answers import ERROR_HANDLERS, Json
from wbcpipe.review.server.guard import LOGIN, Guard
from wbcpipe.review.server.image_routes import ImageRoutes
from wbcpipe.review.server.journal_routes import JournalRoutes
from wbcpipe.review.server.location_routes import LocationRoutes
from wbcpipe.review.server.open_samples import OpenSamples
from wbcpipe.review.server.pages import STATIC, PageRoutes
from wbcpipe.review.server.reader_routes import ReaderRoutes
from wbcpipe.review.server.worklist import Worklist

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from wbcpipe.review.server.options import ServerOptions

__all__ = ["ReviewApp"]

_SAMPLES: Final = "/api/samples"
_SAMPLE: Final = "/api/samples/{name}"


class ReviewApp:
    """The review server as an ASGI application.

    Args:
        options: see `ServerOptions`.

    Attributes:
        asgi: the application, for a server.
        samples: those under review.
    """

    def __init__(self, options: ServerOptions) -> None:
        self.samples = OpenSamples(options.root, options.lab)
        self._worklist = worklist = Worklist(options.root, options.lab)

        def list_samples(_request: Request) -> Response:
            return Json(worklist.entries())

        app = Starlette(
            routes=[
                *PageRoutes(options).routes(),
                Route(_SAMPLES, list_samples),
                *JournalRoutes(self.samples).routes(_SAMPLE),
                *ReaderRoutes(self.samples).routes(_SAMPLE),
                *LocationRoutes(self.samples).routes(_SAMPLE),
                *ImageRoutes(self.samples).routes(_SAMPLE),
            ],
            exception_handlers=ERROR_HANDLERS,
        )
        # The pages of a login need their style before there is a session.
        has_passwords = options.passwords is not None
        public = (LOGIN, STATIC) if has_passwords else (LOGIN,)
        self.asgi = Guard(
            app, options.address, options.sessions, public=public, has_passwords=has_passwords
        )

    def read_ahead(self) -> None:
        """Begin to read the samples of the worklist: 15 ms each, before the page asks for them."""
        threading.Thread(
            target=self._worklist.entries, name="wbcpipe-worklist", daemon=True
        ).start()

    def close(self) -> None:
        """Close what is open of the samples."""
        self.samples.close()
