"""A small server on loopback that speaks the part of the Hugging Face Hub's HTTP interface the tests need.

The client libraries read `HF_ENDPOINT` once, when they are imported, so a test that goes through
`transformers` or `huggingface_hub` starts a process of its own with the server's address in the environment:

    with HubServer(root) as hub:
        subprocess.run([...], env={**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": empty_folder}, check=True)
    assert any(path.endswith("/model.safetensors") for _, path in hub.requests)
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit


BRANCH = "main"
JSON = "application/json; charset=utf-8"
BINARY = "application/octet-stream"


class HubError(Exception):
    """A refusal: its status, what `X-Error-Message` says and, for `huggingface_hub` to act on, `X-Error-Code`."""

    def __init__(self, status: HTTPStatus, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})


class Repo:
    """A model repository: the files of a folder, as the one commit of the branch `main`.

    Args:
        folder: The folder, `<root>/<namespace>/<name>`.
        private: Whether the repository is private.
    """

    def __init__(self, folder: Path, private: bool) -> None:
        self.id = f"{folder.parent.name}/{folder.name}"
        self.private = private
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        self.files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
        self.oids = {
            name: hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() for name, data in self.files.items()
        }
        self.sha = self._digest("")

    def _digest(self, prefix: str) -> str:
        """Returns a hash of the names and contents of the files whose names start with the prefix."""
        lines = [f"{oid} {name}\n" for name, oid in self.oids.items() if name.startswith(prefix)]
        return hashlib.sha1("".join(lines).encode()).hexdigest()

    def check_revision(self, revision: str) -> None:
        """Raises the Hub's error unless the revision is the branch or the full id of the commit."""
        if revision not in (BRANCH, self.sha):
            raise HubError(HTTPStatus.NOT_FOUND, f"Invalid rev id: {quote(revision)}", "RevisionNotFound")

    def info(self, blobs: bool) -> dict[str, Any]:
        """Returns what `HfApi.model_info` reads, with the sizes and ids of the files if `blobs` is set."""
        card = re.match(r"---\n(.*?\n)---", self.files.get("README.md", b"").decode(), re.DOTALL)
        header = card[1] if card else ""
        tags = re.search(r"^tags:\n((?: *- .*\n)+)", header, re.MULTILINE)
        return {
            "id": self.id,
            "author": self.id.split("/")[0],
            "sha": self.sha,
            "private": self.private,
            "gated": False,
            "disabled": False,
            "tags": re.findall(r"- (.*)", tags[1]) if tags else [],
            **dict(re.findall(r"^(pipeline_tag|library_name): *(\S+)", header, re.MULTILINE)),
            "siblings": [
                {"rfilename": name} | ({"blobId": self.oids[name], "size": len(data)} if blobs else {})
                for name, data in self.files.items()
            ],
        }

    def tree(self, path: str, recursive: bool) -> list[dict[str, Any]]:
        """Returns the files and folders directly in a folder of the repository, or all that are below it."""
        prefix = f"{path}/" if path else ""
        entries: dict[str, dict[str, Any]] = {}
        for name, data in self.files.items():
            if not name.startswith(prefix):
                continue
            parts = name.removeprefix(prefix).split("/")
            for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
                folder = prefix + "/".join(parts[:depth])
                entries[folder] = {"type": "directory", "oid": self._digest(f"{folder}/"), "size": 0, "path": folder}
            if recursive or len(parts) == 1:
                entries[name] = {"type": "file", "oid": self.oids[name], "size": len(data), "path": name}
        if path and not entries:
            raise HubError(HTTPStatus.NOT_FOUND, f"{quote(path)} does not exist", "EntryNotFound")
        return list(entries.values())


class _Handler(BaseHTTPRequestHandler):
    """Answers one request and closes the connection (HTTP/1.0), so that no connection outlives the server."""

    server: "_Server"

    def do_GET(self) -> None:
        """Answers a GET or, without the body, a HEAD."""
        url = urlsplit(self.path)
        query = {key: values[-1].lower() for key, values in parse_qs(url.query).items()}
        try:
            for pattern, answer in ROUTES:
                if match := re.fullmatch(pattern, url.path):
                    parts = {key: unquote(value or "") for key, value in match.groupdict().items()}
                    repo = self.server.hub.open(parts["id"], self.headers.get("Authorization", ""))
                    repo.check_revision(parts.get("revision", BRANCH))
                    return answer(self, repo, parts.get("path", ""), query)
            raise HubError(HTTPStatus.NOT_FOUND, "Sorry, we can't find the page you are looking for.")
        except HubError as error:
            self.send(error.status, json.dumps({"error": str(error)}).encode(), JSON, error.headers)

    do_HEAD = do_GET  # noqa: N815 (the name that http.server looks for)

    def answer_info(self, repo: Repo, path: str, query: Mapping[str, str]) -> None:
        """Answers `HfApi.model_info`."""
        self.send(HTTPStatus.OK, json.dumps(repo.info(query.get("blobs") == "true")).encode(), JSON)

    def answer_tree(self, repo: Repo, path: str, query: Mapping[str, str]) -> None:
        """Answers `HfApi.list_repo_tree`."""
        self.send(HTTPStatus.OK, json.dumps(repo.tree(path, query.get("recursive") == "true")).encode(), JSON)

    def answer_file(self, repo: Repo, path: str, query: Mapping[str, str]) -> None:
        """Sends a file or, to a client that resumes a download, the range of it that is asked for."""
        if path not in repo.files:
            raise HubError(HTTPStatus.NOT_FOUND, "Entry not found", "EntryNotFound")
        data = repo.files[path]
        headers = {"ETag": f'"{repo.oids[path]}"', "X-Repo-Commit": repo.sha, "Accept-Ranges": "bytes"}
        status = HTTPStatus.OK
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted and int(wanted[1]) < len(data):
            start, stop = int(wanted[1]), min(int(wanted[2] or len(data)) + 1, len(data))
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
            status, data = HTTPStatus.PARTIAL_CONTENT, data[start:stop]
        self.send(status, data, BINARY, headers)

    def send(self, status: HTTPStatus, body: bytes, kind: str, headers: Mapping[str, str] | None = None) -> None:
        """Sends a whole response, without its body if the request is a HEAD."""
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Records the request, whatever its method, before any of the response is sent."""
        if self.command:
            self.server.hub.requests.append((self.command, self.path))

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the log out of the output of the tests."""


ROUTES: list[tuple[str, Callable[[_Handler, Repo, str, Mapping[str, str]], None]]] = [
    (r"/(?P<id>[^/]+(/[^/]+)?)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.answer_file),
    (r"/api/models/(?P<id>[^/]+(/[^/]+)?)/tree/(?P<revision>[^/]+)(/(?P<path>.+))?", _Handler.answer_tree),
    (r"/api/models/(?P<id>[^/]+(/[^/]+)?)/revision/(?P<revision>[^/]+)", _Handler.answer_info),
    (r"/api/models/(?P<id>[^/]+(/[^/]+)?)", _Handler.answer_info),
]


class _Server(ThreadingHTTPServer):
    request_queue_size = 64
    hub: "HubServer"


class HubServer:
    """Serves the folders `<root>/<namespace>/<name>` as the model repositories of a Hub while it is entered.

    Each repository has one commit, whose id follows from the names and contents of its files, on the branch
    `main`. The folders are read anew for every request.

    Args:
        root: The folder of the repositories.
        private: The private repositories, each with the token that opens it. The server knows no other tokens and
            refuses them, as the Hub does, even where none is needed.

    Attributes:
        requests: The method and the path, with the query, of every request answered so far.
        url: The address of the server, for `HF_ENDPOINT`.
    """

    def __init__(self, root: Path | str, private: Mapping[str, str] | None = None) -> None:
        self.root = Path(root)
        self.private = dict(private or {})
        self.requests: list[tuple[str, str]] = []
        self.url = ""

    def __enter__(self) -> "HubServer":
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def repo(self, repo_id: str) -> Repo:
        """Returns a repository, private or not, as it is on disk now; raises a `KeyError` if there is none."""
        folder = self.root / repo_id
        if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repo_id) or not folder.is_dir():
            raise KeyError(repo_id)
        return Repo(folder, private=repo_id in self.private)

    def open(self, repo_id: str, authorization: str) -> Repo:
        """Returns a repository to a client that sends this `Authorization` header, which may be empty.

        Raises:
            HubError: The token is unknown, or the repository does not exist or is private and the token is not the
                one that opens it; like the Hub, the server does not tell a client these last two apart.
        """
        token = authorization.removeprefix("Bearer ")
        if token and token not in self.private.values():
            raise HubError(HTTPStatus.UNAUTHORIZED, "Invalid credentials in Authorization header")
        try:
            if self.private.get(repo_id, token) == token:
                return self.repo(repo_id)
        except KeyError:
            pass
        if token:
            raise HubError(HTTPStatus.NOT_FOUND, "Repository not found", "RepoNotFound")
        raise HubError(HTTPStatus.UNAUTHORIZED, "Invalid username or password.", "RepoNotFound")
