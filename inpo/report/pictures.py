"""Pictures as data URIs, so that the page is one file; small enough, counted, and never more than a budget of bytes."""

from __future__ import annotations

import base64
import io
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

BUDGET_BYTES = 6_000_000
"""Of all pictures in a page, before base64 makes them a third larger."""

_AS_IT_IS_BYTES = 40_000
_MIME = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}

TINY_PIXELS = 128
"""Up to this edge a picture is shown enlarged with crisp pixels instead of a blur."""


@dataclass(frozen=True)
class Picture:
    """What an `<img>` needs. `tiny`: enlarge with crisp pixels."""

    uri: str
    width: int
    height: int
    tiny: bool


@dataclass
class Album:
    """Embeds pictures and keeps count of files: `shown`, `unreadable`, and `left_out` once the budget was spent."""

    spent_bytes: int = 0
    shown: int = 0
    unreadable: int = 0
    left_out: int = 0
    _known: dict[tuple[Path, int], Picture | None] = field(default_factory=dict)

    def embed(self, path: Path, *, edge: int = 256) -> Picture | None:
        """The picture, at most `edge` pixels on its longer side; None where it cannot be read or no bytes are left."""
        if (path, edge) not in self._known:
            self._known[path, edge] = self._embed(path, edge)
        return self._known[path, edge]

    def _embed(self, path: Path, edge: int) -> Picture | None:
        try:
            data, mime, width, height = _encoded(path, edge)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning):
            self.unreadable += 1
            return None
        if self.spent_bytes + len(data) > BUDGET_BYTES:
            self.left_out += 1
            return None
        self.spent_bytes += len(data)
        self.shown += 1
        uri = f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}"
        return Picture(uri, width, height, max(width, height) <= TINY_PIXELS)


def _encoded(path: Path, edge: int) -> tuple[bytes, str, int, int]:
    """Bytes, media type, width, height. The file's own bytes where they are few, a smaller WebP otherwise."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        data = path.read_bytes()
        # Decoded even where it is embedded unchanged: a broken file would be a broken picture in the page.
        with Image.open(io.BytesIO(data), formats=tuple(_MIME)) as opened:
            kind, image = str(opened.format), opened.convert("RGB")
    if len(data) <= _AS_IT_IS_BYTES and max(image.size) <= edge:
        return data, _MIME[kind], *image.size
    image.thumbnail((edge, edge), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=85)
    return buffer.getvalue(), "image/webp", *image.size
