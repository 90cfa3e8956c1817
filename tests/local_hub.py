"""A Hugging Face Hub on this machine: the routes that downloads and streamed data sets ask for."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

API = re.compile(r"/api/(models|datasets)/([\w.-]+/[\w.-]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?")
FILE = re.compile(r"/(datasets/)?([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)")


@dataclass
class LocalHub:
    """Repositories served from folders.

    Attributes:
        repositories: ("models" or "datasets", id, revision) -> folder.
        asked: The paths of all requests so far.
        url: Where it answers.
    """

    repositories: dict[tuple[str, str, str], Path] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def add(self, kind: str, name: str, folder: Path, revision: str = "main") -> None:
        """Serve a folder as a revision of a repository."""
        self.repositories[kind, name, revision] = folder

    def environment(self, cache: Path) -> dict[str, str]:
        """What makes a process ask this hub, with an empty cache."""
        places = {"HF_HOME": "", "HF_HUB_CACHE": "hub", "HF_DATASETS_CACHE": "datasets", "HF_TOKEN_PATH": "token"}
        settings = {"HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_TOKEN": ""}
        caches = {name: str(cache / below) for name, below in places.items()}
        return {"HF_ENDPOINT": self.url, "no_proxy": "127.0.0.1"} | caches | settings

    def was_asked_for(self, name: str) -> bool:
        """Whether a file of a repository was."""
        return any(f"/{name}/resolve/" in path for path in self.asked)

    def found(self, kind: str, name: str, revision: str) -> Path | None:
        """The folder of a revision, which may be given as the commit that it is."""
        for (of_kind, of_name, known), folder in self.repositories.items():
            if (of_kind, of_name) == (kind, name) and revision in (known, commit(known)):
                return folder
        return None


def commit(revision: str) -> str:
    """40 hexadecimal digits that stand for a revision."""
    return hashlib.sha1(revision.encode()).hexdigest()


@contextmanager
def serving() -> Iterator[LocalHub]:
    """A hub that answers until the end of the block."""
    hub = LocalHub()

    class Handler(_Handler):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    served: LocalHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the terminal."""

    def do_GET(self) -> None:
        """Answer of repositories and files."""
        self._answer(b"")

    def do_HEAD(self) -> None:
        """The same without content."""
        self._answer(b"")

    def do_POST(self) -> None:
        """The paths that a client asks after."""
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _answer(self, body: bytes) -> None:
        path = unquote(urlsplit(self.path).path)
        self.served.asked.append(path)
        if match := FILE.fullmatch(path):
            self._file("datasets" if match[1] else "models", match[2], match[3], match[4])
        elif match := API.fullmatch(path):
            self._repository(match[1], match[2], match[3] or "revision", match[4] or "main", match[5] or "", body)
        else:
            self._json({"error": "Not Found"}, 404)

    def _repository(self, kind: str, name: str, route: str, revision: str, below: str, body: bytes) -> None:
        folder = self.served.found(kind, name, revision)
        if folder is None:
            known = any(key[:2] == (kind, name) for key in self.served.repositories)
            self._missing("RevisionNotFound" if known else "RepoNotFound")
            return
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        entries = [_entry(folder, p) for p in files]
        if route == "revision":
            siblings = [{"rfilename": e["path"]} for e in entries]
            sha = revision if len(revision) == 40 else commit(revision)
            self._json({"id": name, "sha": sha, "private": False, "tags": [], "siblings": siblings})
        elif route == "tree":
            prefix = f"{below}/" if below else ""
            self._json([e for e in entries if str(e["path"]).startswith(prefix)])
        else:
            asked = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode()).get("paths", [])
            self._json([e for e in entries if e["path"] in asked])

    def _file(self, kind: str, name: str, revision: str, below: str) -> None:
        folder = self.served.found(kind, name, revision)
        if folder is None or not (folder / below).is_file():
            self._missing("RepoNotFound" if folder is None else "EntryNotFound")
            return
        content, status, headers = (folder / below).read_bytes(), 200, {"Accept-Ranges": "bytes"}
        whole = len(content)
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(asked[1]), min(int(asked[2] or whole - 1), whole - 1)
            content, status = content[first : last + 1], 206
            headers["Content-Range"] = f"bytes {first}-{last}/{whole}"
        headers |= {"ETag": f'"{_etag(folder / below)}"', "X-Repo-Commit": commit(revision)}
        if len(revision) == 40:
            headers["X-Repo-Commit"] = revision
        self._send(status, content, "application/octet-stream", headers)

    def _missing(self, code: str) -> None:
        self._json({"error": code}, 404, {"X-Error-Code": code, "X-Error-Message": code})

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(value).encode(), "application/json", headers or {})

    def _send(self, status: int, content: bytes, kind: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _etag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


def _entry(folder: Path, file: Path) -> dict[str, Any]:
    path = file.relative_to(folder).as_posix()
    return {"type": "file", "path": path, "size": file.stat().st_size, "oid": _etag(file)}
