"""The page's files as routes.

Palette and type are those of all our pages (`hanmo/page/page.css`); the words are made into a module of two languages.
"""

from __future__ import annotations

from pathlib import Path

import orjson
from starlette.routing import Route

from hanmo.serve.static import KINDS, file_route
from hanmo.studio.words import all_words

_PAGE = Path(__file__).parent / "page"


def page_routes() -> list[Route]:
    """A route for the page and for each file it loads."""
    files = {file.name: file for file in sorted(_PAGE.iterdir()) if file.suffix in KINDS}
    rooms = _PAGE.parents[1]
    files |= {"base.css": rooms / "page" / "page.css"}
    files |= {name: rooms / "serve" / "page" / name for name in ("seal.svg", "client.js")}
    routes = [file_route(f"/page/{name}", file.read_bytes(), file.suffix) for name, file in files.items()]
    table = b"export default " + orjson.dumps(all_words()) + b";\n"
    return [
        file_route("/", files["index.html"].read_bytes(), ".html"),
        *routes,
        file_route("/page/table.js", table, ".js"),
    ]
