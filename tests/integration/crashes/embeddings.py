"""An embeddings endpoint as OpenAI's, in a thread of this process: it is the one thing that is never killed."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from memos.embedding.base import Embedder


@contextmanager
def endpoint(embedder: Embedder) -> Iterator[str]:
    """Serve an embedder until the block ends; yield the base URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16  # head and body leave together

        def do_POST(self) -> None:
            """Answer ``/v1/embeddings``."""
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            rows = embedder.embed(asked["input"]).tolist()
            body = json.dumps({"data": [{"index": place, "embedding": row} for place, row in enumerate(rows)]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base class's word
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, name="test-embeddings", daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            thread.join()
