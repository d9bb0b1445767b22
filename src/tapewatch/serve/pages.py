"""The page's files, read once at the start, sent compressed, and revalidated by their hash.

They hold no data, so they need no token: the page itself asks for it.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from fastapi import APIRouter, HTTPException, Request, Response

from tapewatch.errors import MachineError

__all__ = ["PageFile", "chart_library", "load_page", "page_routes"]

_WEB: Final = Path(__file__).parent / "web"
_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class PageFile:
    """One file, ready to send."""

    body: bytes
    packed: bytes
    media_type: str
    etag: str

    @staticmethod
    def of(path: Path) -> PageFile:
        """Read and compress."""
        body = path.read_bytes()
        etag = f'"{hashlib.sha256(body).hexdigest()[:24]}"'
        return PageFile(body, gzip.compress(body, mtime=0), _TYPES[path.suffix], etag)

    def answer(self, request: Request) -> Response:
        """The file, or 304 if the browser has it."""
        headers = {"ETag": self.etag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
        if request.headers.get("if-none-match") == self.etag:
            return Response(status_code=304, headers=headers)
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(self.packed, headers={**headers, "Content-Encoding": "gzip"}, media_type=self.media_type)
        return Response(self.body, headers=headers, media_type=self.media_type)


def chart_library(package: str = "lightweight_charts") -> Path:
    """The chart library's file inside its wheel, which is never imported.

    Raises:
        MachineError: it is not installed.
    """
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder, "js", "lightweight-charts.standalone.development.js")
        if path.is_file():
            return path
    raise MachineError(
        "The page's chart library is not installed: run ./start_pipeline.sh, or "
        "pip install --no-deps --require-hashes -r requirements/web.lock"
    )


@cache
def load_page() -> dict[str, PageFile]:
    """Every file by its path on the server. Raises `MachineError` without the chart library."""
    files = {f"/static/{p.name}": PageFile.of(p) for p in sorted(_WEB.iterdir()) if p.suffix in _TYPES}
    files["/"] = files.pop("/static/index.html")
    files["/vendor/lightweight-charts.js"] = PageFile.of(chart_library())
    return files


def page_routes(files: dict[str, PageFile]) -> APIRouter:
    """GET and HEAD of the page and its files."""
    router = APIRouter(include_in_schema=False)

    @router.api_route("/", methods=["GET", "HEAD"])
    @router.api_route("/static/{name}", methods=["GET", "HEAD"])
    @router.api_route("/vendor/{name}", methods=["GET", "HEAD"])
    async def page(request: Request) -> Response:
        if (file := files.get(request.url.path)) is None:
            raise HTTPException(404, f"There is no file {request.url.path[:100]}.")
        return file.answer(request)

    return router
