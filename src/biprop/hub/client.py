"""Finding, downloading and uploading files, by huggingface_hub.

What a repository contains decides neither where a file is written nor what is executed: the library
writes into its own cache, and the caller checks the content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError, abbreviated, one_line
from ..names import TICKET_SUFFIX
from .address import COMMIT, Address, is_address, is_file_name, parse_address

MOST_BYTES = 1 << 33
"""Of a file; larger ones are not downloaded."""
CARD = "README.md"
_LOG_IN = "log in (hf auth login), or set HF_TOKEN"
_HTTP_LIBRARIES = ("httpx", "httpx2", "httpcore", "requests", "urllib3")
"""What huggingface_hub connects with, in its different versions."""


@dataclass(frozen=True)
class Location:
    """A file of a repository, pinned.

    Attributes:
        repo, file: its repository and its path there.
        commit: 40 hexadecimal digits; whoever names it gets the same bytes for ever.
        sha256: of the content, as the server says; None if it does not.
    """

    repo: str
    commit: str
    file: str
    sha256: str | None = None

    @property
    def address(self) -> Address:
        """The address with the commit as its revision."""
        return Address(self.repo, self.commit, self.file)


def find(address: Address) -> Location:
    """Look a ticket up.

    Raises:
        UserError: no such repository, revision or file; several tickets, and the address names
            none; or the Hub cannot be reached.
    """
    with _errors_of(address.repo):
        info = _api().model_info(address.repo, revision=address.revision, files_metadata=True)
    files = {file.rfilename: file for file in info.siblings or []}
    name = address.file or _only_ticket(address.repo, files)
    if name not in files:
        known = ", ".join(map(abbreviated, _tickets(files)[:5])) or "none"
        raise UserError(f"{address.repo}: has no file {name}; tickets there: {known}")
    file = files[name]
    if (file.size or 0) > MOST_BYTES:
        raise UserError(f"{address.repo}: {name} has {file.size:,} bytes: no ticket is that large")
    commit = str(info.sha)
    if not COMMIT.fullmatch(commit):
        raise UserError(f"{address.repo}: the server names no commit: it is no Hugging Face Hub")
    return Location(address.repo, commit, name, file.lfs.sha256 if file.lfs else None)


def _tickets(files: Mapping[str, Any]) -> list[str]:
    return sorted(filter(is_file_name, files))


def _only_ticket(repo: str, files: Mapping[str, Any]) -> str:
    tickets = _tickets(files)
    if not tickets:
        raise UserError(f"{repo}: has no ticket ({TICKET_SUFFIX})")
    if len(tickets) > 1:
        some = ", ".join(tickets[:5]) + (", ..." if len(tickets) > 5 else "")
        raise UserError(
            f"{repo}: has {len(tickets)} tickets ({some}): name one of them: {repo}/{tickets[0]}"
        )
    return tickets[0]


def local(path: str) -> Path:
    """A path as it is, or the file of an address, see `fetch`."""
    return fetch(path) if is_address(path) else Path(path)


def fetch(text: str) -> Path:
    """The file of a ticket in the library's cache, downloaded if it is not there.

    An address with a commit and a file is read without a connection once it is in the cache.

    Args:
        text: hf://USER/REPO[@REVISION][/FILE].

    Raises:
        UserError: see `parse_address` and `find`.
    """
    address = parse_address(text)
    return _in_cache(address) or _downloaded(find(address))


def _in_cache(address: Address) -> Path | None:
    """The file of a pinned address, if it was downloaded before."""
    if address.file is None or not COMMIT.fullmatch(address.revision or ""):
        return None
    with _errors_of(address.repo):
        from huggingface_hub import try_to_load_from_cache

        path = try_to_load_from_cache(address.repo, address.file, revision=address.revision)
        return Path(path) if isinstance(path, str) else None


def _downloaded(location: Location) -> Path:
    with _errors_of(location.repo):
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(location.repo, location.file, revision=location.commit))


def download(location: Location, sha256: str | None = None) -> bytes:
    """The content of a file, whose checksum is verified.

    Args:
        location: of `find`.
        sha256: that the user demands, 64 hexadecimal digits; None: only the server's counts.

    Raises:
        UserError: it cannot be downloaded, or has another checksum.
    """
    content = _downloaded(location).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    for expected, whose in ((sha256, "--sha256"), (location.sha256, "the Hub")):
        if expected and digest != expected.lower():
            raise UserError(
                f"{location.repo}: {location.file} has the checksum {digest}, but {whose} says"
                f" {expected}: nothing is written"
            )
    return content


def upload(
    repo: str,
    files: Mapping[str, bytes],
    message: str,
    private: bool,
    may_replace: Callable[[str], bool],
) -> str:
    """Write files to a repository in one commit; a new repository is made if there is none.

    Args:
        repo: "USER/REPO".
        files: content by path.
        message: of the commit.
        private: a new repository is visible to its owner only.
        may_replace: whether a README.md that is there may be replaced, given its text.

    Returns:
        The commit, 40 hexadecimal digits.

    Raises:
        UserError: not logged in or not allowed to; a README.md that may not be replaced; or the Hub
            cannot be reached.
    """
    with _errors_of(repo):
        from huggingface_hub import CommitOperationAdd, get_token

        if not get_token():
            raise UserError(f"{repo}: not logged in to the Hugging Face Hub: {_LOG_IN}")
        card = _card(repo)
        if card is not None and not may_replace(card):
            raise UserError(
                f"{repo}: its {CARD} was not written by biprop push: pass --replace-card to replace"
                " it, or write to another repository"
            )
        api = _api()
        api.create_repo(repo, private=private, exist_ok=True)
        operations = [CommitOperationAdd(path, content) for path, content in files.items()]
        commit = api.create_commit(repo, operations, commit_message=message)
        return str(commit.oid)


def _card(repo: str) -> str | None:
    """The README.md of a repository; None if it or the repository does not exist."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = _api().model_info(repo)
    except RepositoryNotFoundError:
        return None
    if CARD not in {file.rfilename for file in info.siblings or []}:
        return None
    path = hf_hub_download(repo, CARD, revision=info.sha)
    return Path(path).read_text(encoding="utf-8", errors="replace")


def _api() -> Any:
    from huggingface_hub import HfApi

    from .. import __version__

    return HfApi(library_name="biprop", library_version=__version__)


# ---- errors ----


@contextmanager
def _errors_of(repo: str) -> Iterator[None]:
    """Turn what goes wrong in the block into a UserError of one line.

    Raises:
        UserError: always in place of an error of huggingface_hub, or of what it connects with.
    """
    try:
        yield
    except UserError:
        raise
    except ImportError as e:
        raise UserError(
            f"{repo}: the package huggingface_hub is missing: pip install 'biprop[hub]'"
        ) from e
    except Exception as e:
        reason = _reason(e)
        if reason is None:
            raise
        raise UserError(f"{repo}: {reason}") from e


def _reason(error: Exception) -> str | None:
    """What an error means for the user; None for one that is none of the Hub's."""
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return f"its owner gives access on request: ask on its page, and {_LOG_IN}"
    if status == 403:
        return f"not allowed with your token: {_server_message(error)}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"no such repository, or a private one that you may not read: {_LOG_IN}"
    if isinstance(error, errors.RevisionNotFoundError):
        return "has no such revision"
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        return _unreachable(error)
    if isinstance(error, errors.EntryNotFoundError):
        return "has no such file"
    if status == 401 or isinstance(error, errors.LocalTokenNotFoundError):
        return f"the Hub does not accept your token: {_LOG_IN}"
    if isinstance(error, errors.HfHubHTTPError):
        return f"the Hub answers: {_server_message(error)}"
    if isinstance(error, ValueError | RuntimeError | OSError):
        because = f" ({one_line(error.__cause__)})" if error.__cause__ else ""
        return one_line(error) + because
    libraries = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return _unreachable(error) if libraries & set(_HTTP_LIBRARIES) else None


def _unreachable(error: Exception) -> str:
    cause = error.__cause__ or error
    return (
        f"the Hub cannot be reached, and the file is not in the cache: {one_line(cause)}; check the"
        " connection, HF_ENDPOINT and HF_HUB_OFFLINE"
    )


def _server_message(error: Any) -> str:
    text = getattr(error, "server_message", None) or str(error)
    return one_line(ValueError(text))
