"""A small server on loopback that speaks as much of a Hugging Face hub's protocol as a download needs.

Model info with file sizes, HEAD and GET of files with ETag, commit and byte ranges, and the ways a real hub fails: a
connection cut in the middle, a gated or private repository, an unknown one, a wrong hash.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """`repos`: repository → file → contents. `requests`: (method, path, Range header or None) in order of arrival."""

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    cut_after: dict[str, list[int]] = field(default_factory=dict)
    """File → for each of its next GETs, how many bytes to send before cutting the connection."""
    corrupt: set[str] = field(default_factory=set)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    endpoint: str = ""

    def gets(self, file: str) -> list[str | None]:
        """The Range headers of the GET requests for `file`."""
        return [
            byte_range for method, path, byte_range in self.requests if method == "GET" and path.endswith("/" + file)
        ]


@contextmanager
def running(hub: FakeHub) -> Iterator[FakeHub]:
    """Serve `hub` on a free port of 127.0.0.1; `hub.endpoint` is its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            path = self.path.partition("?")[0]
            hub.requests.append((self.command, path, self.headers.get("Range")))
            hub.tokens.add(self.headers.get("Authorization"))
            parts = path.strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                self._info("/".join(parts[2:4]))
            elif len(parts) >= 5 and parts[2] == "resolve":
                self._file("/".join(parts[:2]), "/".join(parts[4:]), with_body)
            else:
                self._error(404, "EntryNotFound")

        def _info(self, repo: str) -> None:
            if repo not in hub.repos:
                self._error(401, "RepoNotFound")
                return
            siblings = [{"rfilename": name, "size": len(data)} for name, data in hub.repos[repo].items()]
            body = json.dumps({"id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings}).encode()
            self._send(200, body, {"Content-Type": "application/json"})

        def _file(self, repo: str, name: str, with_body: bool) -> None:
            if repo in hub.gated:
                self._error(403, "GatedRepo")
                return
            if name not in hub.repos.get(repo, {}):
                self._error(404, "EntryNotFound")
                return
            data = hub.repos[repo][name]
            start, status = 0, 200
            headers = {"ETag": f'"{_etag(name, data)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            if byte_range := self.headers.get("Range"):
                start, status = int(byte_range.removeprefix("bytes=").split("-")[0]), 206
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            if name in hub.corrupt:
                data = bytes(len(data))
            limit = hub.cut_after[name].pop(0) if with_body and hub.cut_after.get(name) else None
            self._send(status, data[start:], headers, with_body=with_body, limit=limit)

        def _error(self, status: int, code: str) -> None:
            self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

        def _send(
            self, status: int, body: bytes, headers: dict[str, str], *, with_body: bool = True, limit: int | None = None
        ) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body and self.command != "HEAD":
                with suppress(ConnectionError):  # the client may hang up, too
                    self.wfile.write(body[:limit])
            if limit is not None:
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _etag(name: str, data: bytes) -> str:
    """Large files are known by their SHA-256, small text files by their git hash."""
    if name.endswith((".gguf", ".safetensors")):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
