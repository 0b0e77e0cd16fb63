"""The repositories of the tests' Hub: commits, branches, large files and tokens, in memory."""

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote


BRANCH = "main"
# What a real Hub puts into a new repository.
GIT_ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"


class HubError(Exception):
    """A refusal: its status, what `X-Error-Message` says and, for `huggingface_hub` to act on, `X-Error-Code`."""

    def __init__(self, status: HTTPStatus, message: str, code: str | None = None, **details: str) -> None:
        super().__init__(message)
        self.status = status
        self.details = details
        self.headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})


@dataclass(frozen=True)
class User:
    """Whom a token belongs to, and whether it may write."""

    name: str
    role: str = "write"
    organizations: tuple[str, ...] = ()

    @property
    def namespaces(self) -> tuple[str, ...]:
        return (self.name, *self.organizations)

    def whoami(self) -> dict[str, Any]:
        """What `HfApi.whoami` reads."""
        return {
            "type": "user",
            "name": self.name,
            "orgs": [{"type": "org", "name": name, "roleInOrg": "write"} for name in self.organizations],
            "auth": {"type": "access_token", "accessToken": {"displayName": "test", "role": self.role}},
        }


@dataclass(frozen=True)
class Blob:
    """The content of a file; `large` if it was uploaded apart from its commit, as Git LFS does."""

    data: bytes
    large: bool = False

    @property
    def oid(self) -> str:
        if self.large:
            return hashlib.sha256(self.data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()


@dataclass(frozen=True)
class Commit:
    """The files of a repository at one time."""

    files: dict[str, Blob]
    message: str
    parent: str | None = None

    @property
    def sha(self) -> str:
        lines = [f"{blob.oid} {name}" for name, blob in sorted(self.files.items())]
        return hashlib.sha1("\n".join([self.message, str(self.parent), *lines]).encode()).hexdigest()


@dataclass
class Repo:
    """A model repository."""

    id: str
    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of_folder(cls, folder: Path, private: bool) -> "Repo":
        """The files of a folder `<namespace>/<name>` as one commit."""
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        repo = cls(f"{folder.parent.name}/{folder.name}", private)
        repo.add(BRANCH, Commit({path.relative_to(folder).as_posix(): Blob(path.read_bytes()) for path in paths}, ""))
        return repo

    def add(self, ref: str, commit: Commit) -> str:
        """Puts a commit at the top of a branch."""
        self.commits[commit.sha] = commit
        self.refs[ref] = commit.sha
        return commit.sha

    def resolve(self, revision: str) -> str:
        """The id of the commit that a branch, a pull request or an id names."""
        sha = self.refs.get(revision, revision)
        if sha not in self.commits:
            raise HubError(HTTPStatus.NOT_FOUND, f"Invalid rev id: {quote(revision)}", "RevisionNotFound")
        return sha

    def files(self, revision: str = BRANCH) -> dict[str, bytes]:
        """Names and contents of the files, for the tests to look at."""
        return {name: blob.data for name, blob in self.commits[self.resolve(revision)].files.items()}

    def commit(self, revision: str, lines: list[dict[str, Any]], uploads: dict[str, bytes], *, pr: bool) -> dict:
        """Applies the lines of a commit's body to a branch, or to a new pull request against it."""
        head = self.resolve(revision)
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit", head) != head:
            raise HubError(
                HTTPStatus.PRECONDITION_FAILED, "A commit has happened since. Please refresh and try again."
            )
        files = dict(self.commits[head].files)
        for line in lines:
            value, path = line["value"], line["value"].get("path")
            if line["key"] == "file":
                files[path] = Blob(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                files[path] = Blob(uploads[value["oid"]], large=True)
            elif line["key"] == "deletedFile":
                del files[path]
            elif line["key"] != "header":
                raise HubError(HTTPStatus.BAD_REQUEST, f"Unknown line {line['key']}")
        if not pr and revision not in self.refs:
            raise HubError(HTTPStatus.BAD_REQUEST, f"{revision} is no branch")
        number = sum(ref.startswith("refs/pr/") for ref in self.refs) + 1
        sha = self.add(f"refs/pr/{number}" if pr else revision, Commit(files, header["summary"], head))
        return {"oid": sha, "number": number if pr else None}

    def info(self, revision: str, blobs: bool) -> dict[str, Any]:
        """What `HfApi.model_info` reads, with the sizes and ids of the files if `blobs` is set."""
        sha = self.resolve(revision)
        files = self.commits[sha].files
        card = re.match(
            r"---\n(.*?\n)---", files["README.md"].data.decode(errors="replace") if "README.md" in files else "", re.S
        )
        header = card[1] if card else ""
        tags = re.search(r"^tags:\n((?: *- .*\n)+)", header, re.MULTILINE)
        return {
            "id": self.id,
            "author": self.id.split("/")[0],
            "sha": sha,
            "private": self.private,
            "gated": False,
            "disabled": False,
            "tags": re.findall(r"- (.*)", tags[1]) if tags else [],
            **dict(re.findall(r"^(pipeline_tag|library_name): *(\S+)", header, re.MULTILINE)),
            "siblings": [
                {"rfilename": name} | ({"blobId": blob.oid, "size": len(blob.data)} if blobs else {})
                for name, blob in files.items()
            ],
        }

    def tree(self, revision: str, path: str, recursive: bool) -> list[dict[str, Any]]:
        """The files and folders directly in a folder of the repository, or all that are below it."""
        prefix = f"{path}/" if path else ""
        entries: dict[str, dict[str, Any]] = {}
        for name, blob in self.commits[self.resolve(revision)].files.items():
            if not name.startswith(prefix):
                continue
            parts = name.removeprefix(prefix).split("/")
            for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
                folder = prefix + "/".join(parts[:depth])
                oid = hashlib.sha1(folder.encode()).hexdigest()
                entries[folder] = {"type": "directory", "oid": oid, "size": 0, "path": folder}
            if recursive or len(parts) == 1:
                entries[name] = {"type": "file", "oid": blob.oid, "size": len(blob.data), "path": name}
        if path and not entries:
            raise HubError(HTTPStatus.NOT_FOUND, f"{quote(path)} does not exist", "EntryNotFound")
        return list(entries.values())


def parse_lines(body: bytes) -> list[dict[str, Any]]:
    """The lines of a commit's body."""
    return [json.loads(line) for line in body.splitlines()]
