"""Where a ticket is on the Hub: hf://USER/REPO[@REVISION][/FILE]."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from ..errors import UserError, abbreviated
from ..names import TICKET_SUFFIX

PREFIX = "hf://"
COMMIT = re.compile("[0-9a-f]{40}")

_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}"
"""Of a user, a repository, a folder or a file: neither "..", nor hidden."""
_FORM = re.compile(
    rf"(?P<repo>{_NAME}/{_NAME})(?:@(?P<revision>[\w.%-]{{1,200}}))?(?:/(?P<file>.+))?"
)
_FILE = re.compile(rf"(?:{_NAME}/){{0,8}}{_NAME}{re.escape(TICKET_SUFFIX)}")


@dataclass(frozen=True)
class Address:
    """A ticket on the Hub.

    Attributes:
        repo: "USER/REPO".
        revision: a branch, a tag or a commit; None: the newest.
        file: its path in the repository; None: the only ticket that is there.
    """

    repo: str
    revision: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{PREFIX}{self.repo}{revision}{f'/{self.file}' if self.file else ''}"


def is_address(text: object) -> bool:
    """Whether a path is an address on the Hub."""
    return isinstance(text, str) and text.startswith(PREFIX)


def parse_address(text: str) -> Address:
    """The address in a text, with or without hf://.

    A revision with a slash is written with %2F: refs%2Fpr%2F1.

    Raises:
        UserError: it has another form.
    """
    match = _FORM.fullmatch(text.removeprefix(PREFIX))
    if not match:
        raise UserError(
            f"{abbreviated(text)}: must be USER/REPO, also with @REVISION and /FILE{TICKET_SUFFIX}"
        )
    revision, file = match["revision"], match["file"]
    if file is not None:
        check_file_name(file)
    return Address(match["repo"], revision and unquote(revision), file)


def parse_repository(text: str) -> str:
    """ "USER/REPO", also written with hf:// before it.

    Raises:
        UserError: it has another form, or names a revision or a file.
    """
    address = parse_address(text)
    if address.revision or address.file:
        raise UserError(f"{abbreviated(text)}: must be USER/REPO, without a revision or a file")
    return address.repo


def is_file_name(name: str) -> bool:
    """Whether a name is a ticket's in a repository: plain characters, no hidden parts and none that
    leads out of a folder.
    """
    return _FILE.fullmatch(name) is not None


def check_file_name(name: str) -> None:
    """Raise UserError for a name of a ticket that is not used on the Hub: see `is_file_name`."""
    if not is_file_name(name):
        raise UserError(
            f"{abbreviated(name)}: the name of a ticket on the Hub ends with {TICKET_SUFFIX}, and"
            " consists of letters, digits, -, _ and ."
        )
