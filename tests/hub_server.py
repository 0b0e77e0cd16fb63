"""A small server on loopback that speaks the part of the Hugging Face Hub's HTTP interface the tests need.

The client libraries read `HF_ENDPOINT` once, when they are imported, so a test that goes through
`transformers` or `huggingface_hub` starts a process of its own with the server's address in the environment:

    with HubServer(tokens={"hf_mine": User("me")}) as hub:
        run_python(SCRIPT, env=hub.environment(empty_folder, token="hf_mine"))
    assert "model.safetensors" in hub.repos["me/model"].files()
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import transformers.utils.hub
from huggingface_hub import constants

from tests.hub_repos import BRANCH, GIT_ATTRIBUTES, Blob, Commit, HubError, Repo, User, parse_lines


JSON = "application/json; charset=utf-8"
BINARY = "application/octet-stream"


class _Handler(BaseHTTPRequestHandler):
    """Answers one request and closes the connection (HTTP/1.0), so that no connection outlives the server."""

    server: "_Server"

    def do_GET(self) -> None:
        """Answers a request of any method; a HEAD without the body."""
        hub, url = self.server.hub, urlsplit(self.path)
        size = int(self.headers.get("Content-Length", 0))
        fault = hub.fault(f"{self.command} {url.path}")
        if fault == "break":
            self.rfile.read(size // 2)
            self.close_connection = True
            return
        if fault is not None:
            self.rfile.read(size)
            return self.answer_wrongly(fault)
        self.body = self.rfile.read(size)
        self.query = {key: values[-1].lower() for key, values in parse_qs(url.query).items()}
        method = "GET" if self.command == "HEAD" else self.command
        try:
            self.user = hub.user(self.headers.get("Authorization", ""))
            for pattern, answer in ROUTES:
                if match := re.fullmatch(pattern, f"{method} {url.path}"):
                    return answer(self, **{key: unquote(value or "") for key, value in match.groupdict().items()})
            raise HubError(HTTPStatus.NOT_FOUND, "Sorry, we can't find the page you are looking for.")
        except HubError as error:
            self.send(error.status, json.dumps({"error": str(error), **error.details}).encode(), JSON, error.headers)

    def answer_wrongly(self, fault: str | int) -> None:
        """Answers as what stands between a client and the Hub may."""
        if fault == "slow":
            time.sleep(self.server.hub.patience)
            self.close_connection = True
        elif fault == "html":
            self.send(HTTPStatus.OK, b"<html><body>Sign in to this network</body></html>", "text/html")
        else:
            self.send(HTTPStatus(fault), b"<html>out of order</html>", "text/html")

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815 (the names that http.server looks for)

    def answer_info(self, id: str, revision: str = BRANCH) -> None:
        """Answers `HfApi.model_info`."""
        self.send_json(self.readable(id).info(revision, self.query.get("blobs") == "true"))

    def answer_tree(self, id: str, revision: str, path: str) -> None:
        """Answers `HfApi.list_repo_tree`."""
        self.send_json(self.readable(id).tree(revision, path, self.query.get("recursive") == "true"))

    def answer_file(self, id: str, revision: str, path: str) -> None:
        """Sends a file or, to a client that resumes a download, the range of it that is asked for."""
        repo = self.readable(id)
        commit = repo.resolve(revision)
        blob = repo.commits[commit].files.get(path)
        if blob is None:
            raise HubError(HTTPStatus.NOT_FOUND, "Entry not found", "EntryNotFound")
        data = blob.data
        headers = {"ETag": f'"{blob.oid}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        status = HTTPStatus.OK
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted and int(wanted[1]) < len(data):
            start, stop = int(wanted[1]), min(int(wanted[2] or len(data)) + 1, len(data))
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
            status, data = HTTPStatus.PARTIAL_CONTENT, data[start:stop]
        self.send(status, data, BINARY, headers)

    def answer_whoami(self) -> None:
        """Answers `HfApi.whoami`."""
        if self.user is None:
            raise HubError(HTTPStatus.UNAUTHORIZED, "Invalid username or password.")
        self.send_json(self.user.whoami())

    def answer_create(self) -> None:
        """Answers `HfApi.create_repo`."""
        wanted = json.loads(self.body)
        namespace = wanted.get("organization") or (self.user.name if self.user else "")
        if self.user is None or self.user.role != "write" or namespace not in self.user.namespaces:
            message = f'You don\'t have the rights to create a model under the namespace "{namespace}"'
            raise HubError(HTTPStatus.FORBIDDEN, message)
        repo_id = f"{namespace}/{wanted['name']}"
        if repo_id in self.server.hub.repos:
            url = f"{self.server.hub.url}/{repo_id}"
            raise HubError(HTTPStatus.CONFLICT, "You already created this model repo", url=url)
        private = wanted.get("visibility") == "private" or wanted.get("private") is True
        repo = self.server.hub.repos[repo_id] = Repo(repo_id, private)
        repo.add(BRANCH, Commit({".gitattributes": Blob(GIT_ATTRIBUTES)}, "initial commit"))
        self.send_json({"url": f"{self.server.hub.url}/{repo_id}", "name": repo_id, "id": repo_id})

    def answer_branch(self, id: str, revision: str) -> None:
        """Answers `HfApi.create_branch`."""
        repo = self.writable(id)
        if revision in repo.refs:
            raise HubError(HTTPStatus.CONFLICT, f"Reference already exists: refs/heads/{revision}")
        start = json.loads(self.body or b"{}").get("startingPoint", BRANCH)
        repo.refs[revision] = repo.resolve(start)
        self.send_json({})

    def answer_preupload(self, id: str, revision: str) -> None:
        """Says of each file how it is to be uploaded, and what the repository has in its place."""
        repo = self.writable(id)
        files = repo.commits[repo.resolve(revision)].files
        answers = []
        for path in (file["path"] for file in json.loads(self.body)["files"]):
            mode = "lfs" if path.endswith(self.server.hub.large) else "regular"
            oid = files[path].oid if path in files else None
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.send_json({"files": answers})

    def answer_batch(self, id: str) -> None:
        """Says where each large file is to be put, unless it is there already; the commit is what needs rights."""
        self.readable(id)
        hub, objects = self.server.hub, json.loads(self.body)["objects"]
        for item in objects:
            if item["oid"] not in hub.uploads:
                item["actions"] = {"upload": {"href": f"{hub.url}/upload/{item['oid']}"}}
        self.send_json({"transfer": "basic", "objects": objects})

    def answer_upload(self, oid: str) -> None:
        """Takes a large file; no repository shows it before a commit names it."""
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise HubError(HTTPStatus.BAD_REQUEST, "The content is not that of its id")
        self.server.hub.uploads[oid] = self.body
        self.send_json({})

    def answer_commit(self, id: str, revision: str) -> None:
        """Answers `HfApi.create_commit`."""
        hub, repo = self.server.hub, self.writable(id)
        made = repo.commit(revision, parse_lines(self.body), hub.uploads, pr="create_pr" in self.query)
        answer = {"success": True, "commitOid": made["oid"], "commitUrl": f"{hub.url}/{id}/commit/{made['oid']}"}
        if made["number"]:
            answer["pullRequestUrl"] = f"{hub.url}/{id}/discussions/{made['number']}"
        self.send_json(answer)

    def answer_yaml(self) -> None:
        """Answers the validation of a card's metadata, which the tests do with the client's own parser."""
        self.send_json({"errors": [], "warnings": []})

    def readable(self, repo_id: str) -> Repo:
        """The repository, if the token may read it; like the Hub, telling nobody which are private."""
        repo = self.server.hub.repos.get(repo_id)
        allowed = self.user.namespaces if self.user else ()
        if repo is None or (repo.private and repo_id.split("/")[0] not in allowed):
            if self.user:
                raise HubError(HTTPStatus.NOT_FOUND, "Repository not found", "RepoNotFound")
            raise HubError(HTTPStatus.UNAUTHORIZED, "Invalid username or password.", "RepoNotFound")
        return repo

    def writable(self, repo_id: str) -> Repo:
        """The repository, if the token may write to it or, where a pull request is asked for, propose to."""
        repo = self.readable(repo_id)
        owned = self.user is not None and repo_id.split("/")[0] in self.user.namespaces
        if self.user is None or self.user.role != "write" or not (owned or "create_pr" in self.query):
            raise HubError(HTTPStatus.FORBIDDEN, "Authorization error.")
        return repo

    def send_json(self, content: Any) -> None:
        """Sends a whole answer in JSON."""
        self.send(HTTPStatus.OK, json.dumps(content).encode(), JSON)

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


_MODEL = r"/api/models/(?P<id>[^/]+(/[^/]+)?)"
_REVISION = r"(?P<revision>[^/]+)"

ROUTES: list[tuple[str, Callable[..., None]]] = [
    (rf"GET /(?P<id>[^/]+(/[^/]+)?)/resolve/{_REVISION}/(?P<path>.+)", _Handler.answer_file),
    (rf"GET {_MODEL}/tree/{_REVISION}(/(?P<path>.+))?", _Handler.answer_tree),
    (rf"GET {_MODEL}/revision/{_REVISION}", _Handler.answer_info),
    (rf"GET {_MODEL}", _Handler.answer_info),
    (r"GET /api/whoami-v2", _Handler.answer_whoami),
    (r"POST /api/repos/create", _Handler.answer_create),
    (r"POST /api/validate-yaml", _Handler.answer_yaml),
    (rf"POST {_MODEL}/branch/{_REVISION}", _Handler.answer_branch),
    (rf"POST {_MODEL}/preupload/{_REVISION}", _Handler.answer_preupload),
    (rf"POST {_MODEL}/commit/{_REVISION}", _Handler.answer_commit),
    (r"POST /(?P<id>[^/]+/[^/]+)\.git/info/lfs/objects/batch", _Handler.answer_batch),
    (r"PUT /upload/(?P<oid>\w+)", _Handler.answer_upload),
]


class _Server(ThreadingHTTPServer):
    request_queue_size = 64
    hub: "HubServer"


class HubServer:
    """A Hub while it is entered.

    Args:
        root: A folder whose folders `<namespace>/<name>` are repositories from the start, each with one commit.
        tokens: Those that the server knows. It refuses others, as the Hub does, even where none is needed.
        private: Ids of repositories below `root` that are private.
        large: Files whose names end so are uploaded apart from their commit, as Git LFS does.

    Attributes:
        repos: The repositories by their ids.
        uploads: Large files that were uploaded, by the SHA-256 of their content.
        requests: The method and the path, with the query, of every request answered so far.
        url: The address of the server, for `HF_ENDPOINT`.
        patience: Seconds after which an answer that is slow breaks off.
    """

    def __init__(
        self,
        root: Path | str | None = None,
        *,
        tokens: Mapping[str, User] | None = None,
        private: tuple[str, ...] = (),
        large: tuple[str, ...] = (".safetensors", ".png"),
    ) -> None:
        self.tokens = dict(tokens or {})
        self.large = large
        repos = [
            Repo.of_folder(folder, private="/".join(folder.parts[-2:]) in private)
            for folder in (Path(root).glob("*/*") if root else ())
        ]
        self.repos = {repo.id: repo for repo in repos}
        self.uploads: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.url = ""
        self.patience = 1.0
        self._faults: list[tuple[str, str | int]] = []

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

    def environment(self, cache: Path, token: str | None = None) -> dict[str, str]:
        """The environment of a process that uses this server, with a cache of its own."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        # Nothing that a server says makes the client upload large files without Xet.
        settings = {"HF_ENDPOINT": self.url, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
        return {**inherited, **settings, **({"HF_TOKEN": token} if token else {})}

    def patch_client(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Lets the client in this process use this server, as the environment does for one that starts."""
        monkeypatch.setattr(constants, "ENDPOINT", self.url)
        template = self.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        # The client that transformers keeps for a process would go on asking the server of an earlier test.
        monkeypatch.setattr(transformers.utils.hub, "_hf_api", None, raising=False)

    def break_off(self, request: str, times: int = 1) -> None:
        """Lets the server die in the middle of the next requests whose method and path match a pattern."""
        self.answer_with("break", request, times)

    def answer_with(self, fault: str | int, request: str, times: int = 1) -> None:
        """Lets something else answer the next requests whose method and path match a pattern.

        Args:
            fault (`str` or `int`):
                `"break"`: nothing, in the middle of the request. `"slow"`: nothing in time. `"html"`: a page, as of a
                network that wants one to sign in. A number: an error of that status.
            request (`str`):
                The pattern.
            times (`int`):
                How many; instead of all that were asked for before.
        """
        self._faults = [(request, fault)] * times

    def fault(self, request: str) -> str | int | None:
        """How this request is to fail, if it is."""
        for index, (pattern, fault) in enumerate(self._faults):
            if re.search(pattern, request):
                del self._faults[index]
                return fault
        return None

    def user(self, authorization: str) -> User | None:
        """Whom the `Authorization` header of a request names.

        Raises:
            HubError: If it holds a token that the server does not know.
        """
        token = authorization.removeprefix("Bearer ")
        if token and token not in self.tokens:
            raise HubError(HTTPStatus.UNAUTHORIZED, "Invalid credentials in Authorization header")
        return self.tokens.get(token)
