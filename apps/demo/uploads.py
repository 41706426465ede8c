"""How much disk the uploads of all visitors take together."""

import contextlib
import json
import time
from pathlib import Path
from typing import Any

from gradio.utils import get_upload_folder

LARGEST_TOTAL = 200 * 2**20  # bytes
STALLED_SECONDS = 60  # an upload that grew no more for so long was given up: Gradio leaves what came of it
BLOCK = 4096  # an empty file takes disk, too


class UploadLimit:
    """Before an upload is taken, remove the oldest ones until all together fit into a limit; else answer 413.

    Gradio limits the size of a file and removes uploads by age. By then a fast client would have filled the disk.

    Args:
        app: the application behind.
        limit: in bytes.
    """

    def __init__(self, app: Any, limit: int = LARGEST_TOTAL) -> None:
        self.app, self.limit = app, limit
        self.folder = Path(get_upload_folder())
        self.coming = 0  # bytes of the uploads under way

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].rstrip("/").endswith("/upload"):
            return await self.app(scope, receive, send)
        length = dict(scope["headers"]).get(b"content-length", b"").decode("latin-1")
        if not length.isdecimal():
            return await _refuse(send, 411, "An upload must say its length (Content-Length).")
        size = int(length) + BLOCK
        if not self._free_space(size):
            limit = f"{self.limit / 2**20:,.0f} MB"
            return await _refuse(
                send, 413, f"The uploads of all visitors together are limited to {limit}. Try again in a minute."
            )
        self.coming += size
        try:
            await self.app(scope, receive, send)
        finally:
            self.coming -= size

    def _free_space(self, size: int) -> bool:
        """Remove the oldest uploads until one of this size fits; False if it can't."""
        if self.coming + size > self.limit:
            return False
        files, growing = [], time.time() - STALLED_SECONDS
        for path in self.folder.rglob("*"):
            if path.is_file():
                files.append((path.stat().st_mtime, path.stat().st_size + BLOCK, path))
        space = self.limit - self.coming - size - sum(length for _, length, _ in files)
        for changed, length, path in sorted(files):
            if space >= 0:
                break
            if path.parent != self.folder or changed < growing:  # Gradio moves what is complete into a folder
                path.unlink(missing_ok=True)
                space += length
                with contextlib.suppress(OSError):  # another file is in it
                    path.parent.rmdir()
        return space >= 0


async def _refuse(send: Any, status: int, reason: str) -> None:
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"error": reason}).encode()})
