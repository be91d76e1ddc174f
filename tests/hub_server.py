"""A server on loopback that speaks as much of the Hub's protocol as its client library asks for.

Dataset and model info, tree, paths-info, and resolve with ETag, range requests and LFS checksums. Faults are planted
by path: `gated` (401), `cut` (the connection breaks off half-way), `corrupt` (other bytes than the checksum says),
`drip` (a few bytes a second), `silent` (no answer). With `xet`, large files are offered by Xet too, whose storage isn't
there. Repositories are made and committed to as well, with the token `Hub.writer`.
"""

import base64
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "8049631c405ae6576f93f445c6b8166f76f5505a"
LFS = (".parquet", ".safetensors")


@dataclass
class Hub:
    """Repositories by `datasets/owner/name` or `models/owner/name`: path -> bytes; faults by repository or path."""

    repositories: dict[str, dict[str, bytes]]
    faults: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, str, int]] = field(default_factory=list)  # method, path, bytes of body sent
    endpoint: str = ""
    xet: bool = False
    writer: str = ""  # the token that may make repositories and commit
    private: set[str] = field(default_factory=set)  # repositories that their owner alone may read
    uploaded: dict[str, bytes] = field(default_factory=dict)  # large files by SHA-256, before a commit names them
    commits: list[str] = field(default_factory=list)  # their summaries

    def sent(self, path: str) -> int:
        """Bytes of a file's content that were sent in all."""
        return sum(size for method, requested, size in self.requests if method == "GET" and requested.endswith(path))


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve `hub` on a free port of 127.0.0.1."""

    class Handler(HubHandler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class HubHandler(BaseHTTPRequestHandler):
    """Answers as huggingface.co does."""

    hub: Hub
    protocol_version = "HTTP/1.1"
    drips = False

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def do_PUT(self) -> None:
        """A large file, where the answer about it said."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.uploaded[hashlib.sha256(body).hexdigest()] = body
        self.send_json({})

    def answer(self) -> None:
        """Route one request."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if write := self.write_of(parts):
            token = self.headers.get("Authorization", "")
            if token != f"Bearer {self.hub.writer}":
                return self.refuse(403 if token else 401, "", "this token may not write")
            return write(parts, body)
        if parts == ["api", "validate-yaml"]:  # the metadata of a card
            return self.send_json({"errors": [], "warnings": []})
        if parts[0] == "api" and len(parts) < 4:
            return self.refuse(404, "", self.path)
        if parts[0] == "api":
            kind, owner, name, *rest = parts[1:]
        else:
            kind = "datasets" if parts[0] == "datasets" else "models"
            owner, name, *rest = parts[1:] if kind == "datasets" else parts
        repository = f"{kind}/{owner}/{name}"
        files = self.hub.repositories.get(repository)
        if files is None:
            return self.refuse(404, "RepoNotFound", f"Repository not found: {repository}")
        fault = self.hub.faults.get(repository, "")
        self.drips = fault == "drip"
        if fault[:3].isdigit():  # a status, for ever or once
            if fault.endswith("once"):
                del self.hub.faults[repository]
            return self.refuse(int(fault[:3]), "", "busy")
        if fault == "html":
            return self.send_page()
        if fault == "silent":
            return self.stay_silent()
        if self.hub.faults.get(repository) == "gated":
            return self.refuse(401, "GatedRepo", f"Access to {repository} is restricted. You must be authenticated.")
        action, revision, *path = [*rest, "", ""] if not rest else [*rest, ""] if len(rest) == 1 else rest
        if revision not in ("", "main", COMMIT):
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if action in ("", "revision"):
            self.send_json(self.info(f"{owner}/{name}", files))
        elif action == "tree":
            self.send_json(self.tree(files, "/".join(path)))
        elif action == "paths-info":
            asked = json.loads(body) if body.startswith(b"{") else {}
            paths = asked.get("paths") or [
                unquote(part[6:]) for part in body.decode().split("&") if part[:6] == "paths="
            ]
            self.send_json([self.entry(path, files[path]) for path in paths if path in files])
        elif action == "resolve":
            self.send_content("/".join(path), files)
        else:
            self.refuse(404, "EntryNotFound", self.path)

    def write_of(self, parts: list[str]) -> Callable[[list[str], bytes], None] | None:
        """What a path changes, if it changes something."""
        if parts[:2] == ["api", "repos"]:
            return self.make_repository
        if "lfs" in parts:
            return self.say_where
        return {"preupload": self.say_how, "commit": self.commit}.get(parts[4]) if len(parts) > 4 else None

    def make_repository(self, _: list[str], body: bytes) -> None:
        """A repository that isn't there yet: 409 where it is."""
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else f"me/{asked['name']}"
        if f"models/{name}" in self.hub.repositories:
            address = f"{self.hub.endpoint}/{name}"
            return self.send_json({"error": "You already created this model repo", "url": address}, 409)
        self.hub.repositories[f"models/{name}"] = {}
        if asked.get("private") or asked.get("visibility") == "private":
            self.hub.private.add(name)
        self.send_json({"url": f"{self.hub.endpoint}/{name}"})

    def say_how(self, _: list[str], body: bytes) -> None:
        """Which files are large."""
        files = [
            {
                "path": one["path"],
                "uploadMode": "lfs" if one["path"].endswith(LFS) else "regular",
                "shouldIgnore": False,
            }
            for one in json.loads(body)["files"]
        ]
        self.send_json({"files": files})

    def say_where(self, _: list[str], body: bytes) -> None:
        """Where large files go."""
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.hub.endpoint}/uploads/{one['oid']}"}}}
            for one in json.loads(body)["objects"]
        ]
        self.send_json({"transfer": "basic", "objects": objects})

    def commit(self, parts: list[str], body: bytes) -> None:
        """All files of a commit at once."""
        lines = [json.loads(line) for line in body.splitlines()]
        files: dict[str, bytes] = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.hub.commits.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                files[value["path"]] = self.hub.uploaded[value["oid"]]
        self.hub.repositories[f"models/{parts[2]}/{parts[3]}"] |= files
        address = f"{self.hub.endpoint}/{parts[2]}/{parts[3]}/commit/{COMMIT}"
        self.send_json({"success": True, "commitOid": COMMIT, "commitUrl": address})

    def info(self, identity: str, files: dict[str, bytes]) -> dict[str, object]:
        """What the Hub says of a repository."""
        return {
            "_id": "0" * 24, "id": identity, "author": identity.split("/")[0], "sha": COMMIT,
            "private": identity in self.hub.private, "gated": False,
            "disabled": False, "downloads": 0, "likes": 0, "tags": [], "lastModified": "2024-01-01T00:00:00.000Z",
            "createdAt": "2024-01-01T00:00:00.000Z", "siblings": [{"rfilename": path} for path in files],
        }  # fmt: skip

    def tree(self, files: dict[str, bytes], folder: str) -> list[dict[str, object]]:
        """The files below a folder, and the folders themselves."""
        inside = [path for path in files if not folder or path.startswith(folder + "/")]
        folders = sorted({path.rsplit("/", 1)[0] for path in inside if "/" in path} - {folder})
        entries = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": path} for path in folders]
        return [*entries, *(self.entry(path, files[path]) for path in inside)]

    def entry(self, path: str, content: bytes) -> dict[str, object]:
        """What the Hub says of a file."""
        entry: dict[str, object] = {"type": "file", "oid": etag(path, content)[:40], "size": len(content), "path": path}
        if path.endswith(LFS):
            entry["lfs"] = {"oid": etag(path, content), "size": len(content), "pointerSize": 130}
        return entry

    def send_content(self, path: str, files: dict[str, bytes]) -> None:
        """A file, or the range of it that was asked for."""
        if path not in files:
            return self.refuse(404, "EntryNotFound", f"Entry not found: {path}")
        content = files[path]
        tag = etag(path, content)
        fault = self.hub.faults.get(path)
        if fault == "short":
            content = content[: len(content) // 2]
        if fault == "corrupt":
            content = content[:100] + bytes(byte ^ 1 for byte in content[100:])
        start, end = 0, len(content)
        asked = self.headers.get("Range")
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start = int(first) if first else len(content) - int(last)
            end = min(int(last) + 1, len(content)) if first and last else len(content)
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        for name, value in {
            "ETag": f'"{tag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes", "Content-Length": str(end - start),
            "Content-Type": "application/octet-stream",
        }.items():  # fmt: skip
            self.send_header(name, value)
        if path.endswith(LFS):
            self.send_header("X-Linked-Etag", f'"{tag}"')
            self.send_header("X-Linked-Size", str(len(content)))
            if self.hub.xet:
                self.send_header("X-Xet-Hash", tag)
                self.send_header("X-Xet-Refresh-Route", f"{self.hub.endpoint}/api/models/org/tiny/xet-read-token")
        self.end_headers()
        part = b"" if self.command == "HEAD" else content[start:end]
        if fault == "cut" and part:
            part = part[: len(part) // 2]
            self.close_connection = True
        self.hub.requests.append((self.command, path, len(part)))  # first: a reader of what drips goes in the middle
        self.send_body(part, drips=fault == "drip")

    def send_page(self) -> None:
        """A sign-in page, as of a hotel's network."""
        body = b"<!doctype html><title>Sign in</title>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.hub.requests.append((self.command, "page", len(body)))

    def send_json(self, content: object, status: int = 200) -> None:
        """An answer of the API."""
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.send_body(body, drips=self.drips)
        self.hub.requests.append((self.command, urlsplit(self.path).path, len(body)))

    def send_body(self, body: bytes, drips: bool) -> None:
        """A body at once, or a few bytes a second until its reader has had enough."""
        if not drips:
            self.wfile.write(body)
            return
        self.close_connection = True
        with suppress(OSError):
            for place in range(len(body)):
                self.wfile.write(body[place : place + 1])
                time.sleep(0.1)

    def stay_silent(self) -> None:
        """Answer nothing until the other side has gone."""
        self.close_connection = True
        with suppress(OSError):
            self.connection.recv(1)

    def refuse(self, status: int, code: str, message: str) -> None:
        """An error as the Hub words it."""
        body = json.dumps({"error": message}).encode()
        self.send_response(status)
        if status in (429, 503):
            self.send_header("Retry-After", "1")
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.hub.requests.append((self.command, urlsplit(self.path).path, 0))

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def etag(path: str, content: bytes) -> str:
    """SHA-256 of large files, SHA-1 of a Git blob of small ones."""
    if path.endswith(LFS):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
