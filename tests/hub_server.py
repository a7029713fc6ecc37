"""A small hub on 127.0.0.1: repositories in memory, and the failures of a real one on demand.

It answers what `huggingface_hub` asks for a snapshot: the commit of a revision, the tree of a
commit in pages, and the files, with ranges.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PAGE = 3  # entries of a tree in one answer
CHUNK = 1 << 16


@dataclass
class Repo:
    """A repository and how it misbehaves.

    Attributes:
        files: content by path; those named in ``lfs`` have a sha256 in the tree.
        revisions: commit by name; a commit is a name of itself.
        token: what it takes to read it; "": nothing.
        gated: 403 with the hub's code for terms that were not accepted.
        cuts: path: how many bytes an answer has before the connection is cut, and how often.
        busy: statuses that are answered first, with ``Retry-After: 0``, to requests of files.
        wrong: path: bytes that are sent in place of the right ones.
    """

    files: dict[str, bytes]
    lfs: set[str] = field(default_factory=set)
    revisions: dict[str, str] = field(default_factory=lambda: {"main": COMMIT, "v1": COMMIT})
    token: str = ""
    gated: bool = False
    cuts: dict[str, list[int]] = field(default_factory=dict)
    busy: list[int] = field(default_factory=list)
    wrong: dict[str, bytes] = field(default_factory=dict)


class Hub:
    """The server's state.

    Attributes:
        repos: by ``datasets/owner/name`` or ``models/owner/name``.
        web: files at other addresses, by path.
        sent: bytes sent of each file.
        asked: requests by path.
        tokens: every Authorization header that came.
        ranges: every Range header that came.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.repos: dict[str, Repo] = {}
        self.web = Repo({})
        self.sent: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.tokens: set[str] = set()
        self.ranges: list[str] = []
        self.lock = threading.Lock()


@contextlib.contextmanager
def serve() -> Iterator[Hub]:
    """Run a hub on a free port of the loopback interface."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.hub = Hub(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub: Hub = self.server.hub
        path = unquote(urlsplit(self.path).path)
        with hub.lock:
            hub.asked[path] += 1
            hub.tokens.add(self.headers.get("Authorization", ""))
            if "Range" in self.headers:
                hub.ranges.append(self.headers["Range"])
        if path.startswith("/web/"):
            self.file(hub.web, path.removeprefix("/web/"))
        elif path.startswith("/api/"):
            words = path.removeprefix("/api/").split("/", 4)
            if len(words) == 5:
                self.api(hub, *words)
            else:
                self.refuse(404, "")
        else:
            folder, _, rest = path.lstrip("/").partition("/resolve/")
            name = folder if folder.startswith("datasets/") else f"models/{folder}"
            if repo := self.repo(hub, name, files=True):
                self.file(repo, rest.partition("/")[2])

    def repo(self, hub: Hub, name: str, files: bool = False) -> Repo | None:
        """The repository, if it is there and may be read; else the refusal is sent."""
        repo = hub.repos.get(name)
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if repo is None:
            self.refuse(404 if given else 401, "RepoNotFound")
        elif repo.token and given != repo.token:
            if given:
                self.send(401, b"{}", {"X-Error-Message": "Invalid username or password."})
            else:
                self.refuse(401, "RepoNotFound")
        elif repo.gated and files:
            self.refuse(403, "GatedRepo")
        else:
            return repo
        return None

    def api(self, hub: Hub, kind: str, owner: str, name: str, what: str, rest: str) -> None:
        if not (repo := self.repo(hub, f"{kind}/{owner}/{name}")):
            return
        revision = rest.split("/", maxsplit=1)[0]
        if revision not in {*repo.revisions, *repo.revisions.values()}:
            self.refuse(404, "RevisionNotFound")
            return
        commit = repo.revisions.get(revision, revision)
        if what == "revision":
            siblings = [{"rfilename": path} for path in repo.files]
            content = {"id": f"{owner}/{name}", "sha": commit, "siblings": siblings}
            self.send(200, json.dumps(content).encode())
            return
        first = int(parse_qs(urlsplit(self.path).query).get("cursor", ["0"])[0])
        entries = [self.entry(repo, path) for path in sorted(repo.files)]
        headers = {}
        if first + PAGE < len(entries):
            address = f"{hub.address}{urlsplit(self.path).path}?recursive=True"
            headers["Link"] = f'<{address}&cursor={first + PAGE}>; rel="next"'
        self.send(200, json.dumps(entries[first : first + PAGE]).encode(), headers)

    def entry(self, repo: Repo, path: str) -> dict[str, object]:
        data = repo.files[path]
        entry = {"type": "file", "path": path, "size": len(data), "oid": git_sha1(data)}
        if path in repo.lfs:
            sha256 = hashlib.sha256(data).hexdigest()
            entry["lfs"] = {"oid": sha256, "size": len(data), "pointerSize": 130}
        return entry

    def file(self, repo: Repo, path: str) -> None:
        hub: Hub = self.server.hub
        if path not in repo.files:
            self.refuse(404, "EntryNotFound")
            return
        with hub.lock:
            busy = repo.busy.pop(0) if repo.busy else None
            cut = repo.cuts[path].pop(0) if repo.cuts.get(path) else None
        if busy:
            self.send(busy, b"{}", {"Retry-After": "0"})
            return
        data = repo.wrong.get(path, repo.files[path])
        start, status, headers = 0, 200, {"X-Repo-Commit": COMMIT, "ETag": f'"{git_sha1(data)}"'}
        if given := self.headers.get("Range"):
            start, status = int(given.removeprefix("bytes=").rstrip("-")), 206
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            if start >= len(data):
                self.send(416, b"")
                return
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data) - start)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        end = len(data) if cut is None else min(len(data), start + cut)
        for offset in range(start, end, CHUNK):
            chunk = data[offset : min(end, offset + CHUNK)]
            self.wfile.write(chunk)
            with hub.lock:
                hub.sent[path] += len(chunk)
        if end < len(data):
            self.close_connection = True

    def refuse(self, status: int, code: str) -> None:
        self.send(status, b"{}", {"X-Error-Code": code})

    def send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        """Keep the tests' output clean."""


def git_sha1(data: bytes) -> str:
    """The name that git gives a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
