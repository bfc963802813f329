"""A small Hugging Face Hub on this machine: the part of its interface that huggingface_hub uses to
look models up, to download files, and to commit them by LFS.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import yaml

TOKEN = "hf_of_the_owner"
_REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"


@dataclass
class Repository:
    """Commits in order, each with all its files."""

    private: bool = False
    gated: bool = False
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)

    def commit(self, changes: dict[str, bytes]) -> str:
        files = {**(self.commits[-1][1] if self.commits else {}), **changes}
        oid = hashlib.sha1(f"{len(self.commits)}{sorted(changes)}".encode()).hexdigest()
        self.commits.append((oid, files))
        return oid

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if revision == "main":
            return self.commits[-1] if self.commits else ("0" * 40, {})
        return next((commit for commit in self.commits if commit[0] == revision), None)


@dataclass
class Hub:
    """The server's content, and what was asked of it.

    Attributes:
        url: of the server.
        repositories: by name.
        lfs: large files by checksum.
        requests: "METHOD path", in order.
        damaged: the server sends other bytes than it promises.
        created: the payloads of new repositories.
    """

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    lfs: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    damaged: bool = False
    created: list[dict[str, Any]] = field(default_factory=list)

    def put(self, repo: str, files: dict[str, bytes], **about: bool) -> str:
        """Commit files to a repository, which is made; returns the commit."""
        return self.repositories.setdefault(repo, Repository(**about)).commit(files)


@contextmanager
def running() -> Iterator[Hub]:
    """A server on a free port, while the block runs."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Failure(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer("GET")

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def _answer(self, method: str) -> None:
        path = self.path.partition("?")[0]
        self.hub.requests.append(f"{method} {path}")
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b""
        try:
            for pattern, methods, function in _ROUTES:
                if method in methods and (match := re.fullmatch(pattern, path)):
                    return function(self, body, **match.groupdict())
            raise _Failure(404, message=f"no route for {method} {path}")
        except _Failure as e:
            headers = {"X-Error-Code": e.code, "X-Error-Message": e.message}
            self._send(json.dumps({"error": e.message}).encode(), e.status, headers)

    def _send(
        self, content: bytes, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _send_json(self, value: Any, status: int = 200) -> None:
        self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json"})

    @property
    def _is_owner(self) -> bool:
        return self.headers.get("authorization") == f"Bearer {TOKEN}"

    def _check_owner(self) -> None:
        if not self.headers.get("authorization"):
            raise _Failure(401, message="Invalid username or password.")
        if not self._is_owner:
            raise _Failure(403, message="You don't have the rights to write here")

    def _repository(self, name: str) -> Repository:
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and not self._is_owner):
            raise _Failure(404 if self._is_owner else 401, "RepoNotFound", "Repository not found")
        if repository.gated and not self._is_owner:
            raise _Failure(403, "GatedRepo", "Access to this model is restricted")
        return repository

    def _commit_of(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]]:
        commit = self._repository(repo).at(unquote(revision))
        if commit is None:
            raise _Failure(404, "RevisionNotFound", "Invalid rev id")
        return commit

    # ---- reading ----

    def info(self, body: bytes, repo: str, revision: str | None = None) -> None:
        oid, files = self._commit_of(repo, revision or "main")
        siblings = [_sibling(name, content) for name, content in sorted(files.items())]
        self._send_json({"id": repo, "sha": oid, "siblings": siblings})

    def resolve(self, body: bytes, repo: str, revision: str, file: str) -> None:
        oid, files = self._commit_of(repo, revision)
        if unquote(file) not in files:
            raise _Failure(404, "EntryNotFound", "Entry not found")
        content = files[unquote(file)]
        headers = {"X-Repo-Commit": oid, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        if self.hub.damaged:
            content = bytes([content[0], content[1] ^ 1]) + content[2:]
        self._send(content, headers=headers)

    # ---- writing ----

    def create(self, body: bytes) -> None:
        self._check_owner()
        payload = json.loads(body)
        self.hub.created.append(payload)
        name = f"{payload['organization']}/{payload['name']}"
        if name in self.hub.repositories:
            return self._send_json(
                {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"},
                409,
            )
        private = payload.get("private") or payload.get("visibility") == "private"
        self.hub.repositories[name] = Repository(bool(private))
        self._send_json({"url": f"{self.hub.url}/{name}", "name": name})

    def validate(self, body: bytes) -> None:
        text = json.loads(body)["content"]
        match = re.match(r"---\n(.*?)\n---\n", text, re.S)
        fields = yaml.safe_load(match[1]) if match else {}
        errors = [
            {"message": f'"{name}" must be a list'}
            for name in ("tags", "datasets", "metrics", "model-index")
            if not isinstance(fields.get(name, []), list)
        ]
        warnings = [] if fields else [{"message": "empty or missing yaml metadata in repo card"}]
        self._send_json({"errors": errors, "warnings": warnings}, 400 if errors else 200)

    def preupload(self, body: bytes, repo: str, revision: str) -> None:
        self._check_owner()
        self._repository(repo)
        files = [
            {
                "path": file["path"],
                "uploadMode": "regular" if file["path"].endswith(".md") else "lfs",
                "shouldIgnore": False,
            }
            for file in json.loads(body)["files"]
        ]
        self._send_json({"files": files})

    def batch(self, body: bytes, repo: str) -> None:
        self._check_owner()
        objects = [
            {**item, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{item['oid']}"}}}
            for item in json.loads(body)["objects"]
        ]
        self._send_json({"transfer": "basic", "objects": objects})

    def store(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            raise _Failure(400, message="another checksum")
        self.hub.lfs[oid] = body
        self._send(b"")

    def commit(self, body: bytes, repo: str, revision: str) -> None:
        self._check_owner()
        changes = {}
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                changes[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                changes[value["path"]] = self.hub.lfs[value["oid"]]
        oid = self._repository(repo).commit(changes)
        url = f"{self.hub.url}/{repo}/commit/{oid}"
        self._send_json({"success": True, "commitOid": oid, "commitUrl": url})


def _sibling(name: str, content: bytes) -> dict[str, Any]:
    sibling: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": "0" * 40}
    if not name.endswith(".md"):
        digest = hashlib.sha256(content).hexdigest()
        sibling["lfs"] = {"size": len(content), "sha256": digest, "pointerSize": 130}
    return sibling


_ROUTES: list[tuple[str, tuple[str, ...], Any]] = [
    (rf"/api/models/{_REPO}", ("GET",), _Handler.info),
    (rf"/api/models/{_REPO}/revision/(?P<revision>.+)", ("GET",), _Handler.info),
    (rf"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", ("GET", "HEAD"), _Handler.resolve),
    ("/api/repos/create", ("POST",), _Handler.create),
    ("/api/validate-yaml", ("POST",), _Handler.validate),
    (rf"/api/models/{_REPO}/preupload/(?P<revision>.+)", ("POST",), _Handler.preupload),
    (rf"/{_REPO}\.git/info/lfs/objects/batch", ("POST",), _Handler.batch),
    ("/lfs/(?P<oid>[0-9a-f]{64})", ("PUT",), _Handler.store),
    (rf"/api/models/{_REPO}/commit/(?P<revision>.+)", ("POST",), _Handler.commit),
]
