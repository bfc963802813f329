"""Tickets on the Hugging Face Hub: the real client library against a server of the tests' own."""

import hashlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hub_server
import pytest
from conftest import ROOT
from hub_server import TOKEN, Hub
from test_cli import fails

from biprop import Ticket, UserError, hub
from biprop.cli import command_line
from biprop.hub import parse_address

# The library's own upload calls its HTTP client in a way that this deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

DIGITS = (ROOT / "pretrained" / "digits.mpt").read_bytes()
CIFAR = (ROOT / "pretrained" / "cifar10-small.mpt").read_bytes()
SHA256 = hashlib.sha256(DIGITS).hexdigest()


@pytest.fixture(name="server")
def _server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub without repositories; nobody is logged in, nothing is in the cache."""
    from huggingface_hub import constants

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    with hub_server.running() as server:
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_TOKEN_PATH": str(tmp_path / "token"),
            "HF_STORED_TOKENS_PATH": str(tmp_path / "stored"),
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_DISABLE_PROGRESS_BARS": True,
        }.items():
            monkeypatch.setattr(constants, name, value)
        Path("digits.mpt").write_bytes(DIGITS)
        yield server


@pytest.fixture(name="logged_in")
def _logged_in(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)


def run(*arguments: str) -> None:
    assert command_line.main(list(arguments)) == 0


# ---- push ----


@pytest.mark.usefixtures("logged_in")
def test_what_is_pushed_is_pulled_byte_by_byte(
    server: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    run("push", "digits.mpt", "me/digits", "--license", "mit")
    out = capsys.readouterr().out
    ((commit, files),) = server.repositories["me/digits"].commits
    assert files["digits.mpt"] == DIGITS
    assert b"license: mit" in files["README.md"]
    assert not server.repositories["me/digits"].private
    assert re.search(rf"revision +{commit}\n", out)
    assert re.search(rf"SHA-256 +{SHA256}\n", out)
    address = f"hf://me/digits@{commit}/digits.mpt"
    assert f'biprop.Ticket.load("{address}")' in out
    assert Ticket.load(address).to_bytes() == DIGITS
    (pull,) = re.findall(r"^next: biprop (.*)", out, re.M)
    Path("there").mkdir()
    run(*shlex.split(pull), "-o", "there/digits.mpt")
    assert Path("there/digits.mpt").read_bytes() == DIGITS


@pytest.mark.usefixtures("logged_in")
def test_a_new_version_is_a_new_commit_and_the_old_one_stays(server: Hub) -> None:
    run("push", "digits.mpt", "me/mine", "--private")
    assert server.repositories["me/mine"].private
    Path("v2").mkdir()
    Path("v2/digits.mpt").write_bytes(CIFAR)
    run("push", "v2/digits.mpt", "me/mine")
    (first, _), (second, files) = server.repositories["me/mine"].commits
    assert b"Fast6" in files["README.md"]
    assert Ticket.load(f"hf://me/mine@{first}").to_bytes() == DIGITS
    assert Ticket.load(f"hf://me/mine@{second}").to_bytes() == CIFAR
    assert Ticket.load("hf://me/mine").to_bytes() == CIFAR


@pytest.mark.usefixtures("logged_in")
def test_a_card_of_somebodys_own_is_not_replaced_unasked(
    server: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    server.put("me/mine", {"README.md": b"# Written by hand"})
    message = fails(capsys, "push", "digits.mpt", "me/mine")
    assert "its README.md was not written by biprop push: pass --replace-card" in message
    assert len(server.repositories["me/mine"].commits) == 1
    run("push", "digits.mpt", "me/mine", "--replace-card")
    assert b"# mine" in server.repositories["me/mine"].commits[-1][1]["README.md"]


def test_a_dry_run_asks_nobody(server: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    run("push", "digits.mpt", "me/digits", "--dry-run")
    first = capsys.readouterr().out
    assert first.startswith("---\nlibrary_name: biprop\n")
    run("push", "digits.mpt", "me/digits", "--card-only")
    assert capsys.readouterr().out == first
    assert server.requests == []


def test_who_may_not_write(
    server: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    push = ["push", "digits.mpt", "me/digits"]
    assert "me/digits: not logged in to the Hugging Face Hub: log in (hf auth" in fails(
        capsys, *push
    )
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody_else")
    message = fails(capsys, *push)
    assert "not allowed with your token: You don't have the rights to write here" in message
    assert "hf_of_somebody_else" not in message
    assert server.repositories == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits.mpt", "digits"], "must be USER/REPO"),
        (["digits.mpt", "me/../x"], "must be USER/REPO"),
        (["digits.mpt", "me/x@v1"], "me/x@v1: must be USER/REPO, without a revision or a file"),
        (["my digits.mpt", "me/x"], "consists of letters, digits, -, _ and ."),
        (["digits.deck", "me/x"], "the name of a ticket ends with .mpt"),
        (["none.mpt", "me/x"], "none.mpt: cannot be read"),
        (["digits.mpt", "me/x", "--license", "My own"], "--license My own: must be an ident"),
        (["digits.mpt", "me/x", "--dry-run", "--run", "none"], "none: no such file or folder"),
        (
            ["digits.mpt", "me/x", "--dry-run", "--run", "digits.mpt"],
            "digits.mpt: not a run folder",
        ),
    ],
)
def test_mistakes_in_a_push(
    server: Hub, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    Path("my digits.mpt").write_bytes(DIGITS)
    assert message in fails(capsys, "push", *arguments)
    assert server.requests == []


# ---- pull ----


def test_the_name_and_place_are_the_users(server: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    commit = server.put("you/cats", {"model.mpt": DIGITS, "README.md": b"x"})
    run("pull", "you/cats")
    assert sorted(path.name for path in Path().glob("*.mpt")) == ["cats.mpt", "digits.mpt"]
    assert Path("cats.mpt").read_bytes() == DIGITS
    out = capsys.readouterr().out
    assert f"biprop pull you/cats/model.mpt --revision {commit} --sha256 {SHA256}" in out
    assert "next: biprop inspect cats.mpt" in out
    assert "cats.mpt: exists: pass --overwrite" in fails(capsys, "pull", "you/cats")
    run("pull", "hf://you/cats", "--overwrite")
    Path("a").mkdir()
    run("pull", f"you/cats@{commit}/model.mpt", "-o", "a/b.mpt", "--sha256", SHA256.upper())
    assert Path("a/b.mpt").read_bytes() == DIGITS


def test_of_several_tickets_the_user_chooses(
    server: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    server.put("you/all", {"a.mpt": DIGITS, "sub/b.mpt": CIFAR, "../c.mpt": DIGITS, "x.bin": b"1"})
    message = fails(capsys, "pull", "you/all")
    assert "you/all: has 2 tickets (a.mpt, sub/b.mpt): name one of them: you/all/a.mpt" in message
    with pytest.raises(UserError, match="has 2 tickets"):
        Ticket.load("hf://you/all")
    assert Ticket.load("hf://you/all/sub/b.mpt").to_bytes() == CIFAR
    run("pull", "you/all/sub/b.mpt")
    assert Path("all.mpt").read_bytes() == CIFAR
    assert "has no file d.mpt; tickets there: a.mpt, sub/b.mpt" in fails(
        capsys, "pull", "you/all/d.mpt", "-o", "d.mpt"
    )


def test_names_that_lead_elsewhere_are_never_asked_for(
    server: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    server.put(
        "you/bad", {"../../evil.mpt": DIGITS, "a/../../b.mpt": DIGITS, ".hidden.mpt": DIGITS}
    )
    assert "you/bad: has no ticket (.mpt)" in fails(capsys, "pull", "you/bad")
    assert not any("resolve" in request for request in server.requests)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello" * 10, "not a ticket: the file does not begin like one"),
        (DIGITS[:-1], "damaged: "),
        (DIGITS[:-1] + b"\xff", "damaged: the checksum does not fit"),
        ((ROOT / "pretrained" / "digits.deck").read_bytes(), "a deck, not a ticket"),
    ],
)
def test_what_is_no_ticket_is_not_written(
    server: Hub, capsys: pytest.CaptureFixture[str], content: bytes, message: str
) -> None:
    server.put("you/odd", {"model.mpt": content})
    error = fails(capsys, "pull", "you/odd")
    assert message in error
    assert "nothing is written" in error
    assert not Path("odd.mpt").exists()


def test_checksums(server: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    server.put("you/digits", {"model.mpt": DIGITS})
    other = hashlib.sha256(CIFAR).hexdigest()
    message = fails(capsys, "pull", "you/digits", "-o", "x.mpt", "--sha256", other)
    assert f"has the checksum {SHA256}, but --sha256 says {other}: nothing is written" in message
    assert "must be 64 hexadecimal digits" in fails(capsys, "pull", "you/digits", "--sha256", "12")


def test_bytes_that_change_on_the_way_are_noticed(
    server: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    server.put("you/digits", {"model.mpt": DIGITS})
    server.damaged = True
    message = fails(capsys, "pull", "you/digits", "-o", "x.mpt")
    assert "the Hub says" in message or "damaged" in message or "corrupt" in message
    assert not Path("x.mpt").exists()


def test_what_is_not_there(
    server: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = "no such repository, or a private one that you may not read: log in (hf auth login)"
    assert f"you/none: {missing}" in fails(capsys, "pull", "you/none")
    server.put("you/secret", {"model.mpt": DIGITS}, private=True)
    assert f"you/secret: {missing}" in fails(capsys, "pull", "you/secret")
    server.put("you/gated", {"model.mpt": DIGITS}, gated=True)
    assert "gives access on request" in fails(capsys, "pull", "you/gated")
    server.put("you/empty", {"README.md": b"x"})
    assert "you/empty: has no ticket (.mpt)" in fails(capsys, "pull", "you/empty")
    assert "you/empty: has no such revision" in fails(
        capsys, "pull", "you/empty", "--revision", "v3"
    )
    with pytest.raises(UserError, match="you/none: no such repository"):
        Ticket.load("hf://you/none")
    with pytest.raises(UserError, match=r"you/empty: has no file a.mpt"):
        Ticket.load("hf://you/empty/a.mpt")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    run("pull", "you/secret")
    assert Path("secret.mpt").read_bytes() == DIGITS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cats"], "cats: must be USER/REPO"),
        (["you/cats/model.bin"], "model.bin: the name of a ticket on the Hub ends with .mpt"),
        (["you/cats/../../x.mpt"], "the name of a ticket on the Hub"),
        (["you/cats", "-o", "cats.bin"], "the name of a ticket ends with .mpt"),
        (["you/cats", "-o", "none/cats.mpt"], "no such folder"),
        (["you/cats@main", "--revision", "v3"], "--revision v3: you/cats@main names one already"),
    ],
)
def test_mistakes_in_a_pull(
    server: Hub, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert message in fails(capsys, "pull", *arguments)
    assert server.requests == []


# ---- addresses, the cache, no connection ----


def test_a_pinned_address_is_read_from_the_cache(
    server: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    commit = server.put("you/digits", {"model.mpt": DIGITS})
    pinned = f"hf://you/digits@{commit}/model.mpt"
    Ticket.load(pinned)
    before = len(server.requests)
    assert Ticket.load(pinned).to_bytes() == DIGITS
    assert len(server.requests) == before
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    assert Ticket.load(pinned).to_bytes() == DIGITS
    for address in ("hf://you/digits", f"hf://you/digits@{commit[::-1]}/model.mpt"):
        with pytest.raises(UserError, match="you/digits: the Hub cannot be reached") as error:
            Ticket.load(address)
        assert "\n" not in str(error.value)
    assert "the Hub cannot be reached" in fails(capsys, "pull", "you/digits", "-o", "x.mpt")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert "the Hub cannot be reached" in fails(capsys, "push", "digits.mpt", "me/digits")


def test_commands_take_addresses(server: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    commit = server.put("you/digits", {"model.mpt": DIGITS})
    file = f"hf://you/digits@{commit}/model.mpt"
    for command in (
        ["inspect", file],
        ["bench", file, "--seconds", "0.01", "--no-torch"],
        ["compile", file, "-o", "a.bprog"],
    ):
        run(*command)
        assert f"{len(DIGITS):,}" in capsys.readouterr().out, command
    run("evaluate", file, "--device", "cpu")
    assert "358 of 360 images" in capsys.readouterr().out
    assert "you/none: no such repository" in fails(capsys, "inspect", "hf://you/none")


def test_addresses() -> None:
    address = parse_address("hf://me/a-b.c@refs%2Fpr%2F1/sub/d.mpt")
    assert (address.repo, address.revision, address.file) == ("me/a-b.c", "refs/pr/1", "sub/d.mpt")
    assert parse_address("me/x") == hub.Address("me/x")
    assert str(hub.Address("me/x", "v1", "a.mpt")) == "hf://me/x@v1/a.mpt"
    assert not hub.is_address("me/x.mpt")
    assert not hub.is_address(Path("hf://me/x"))
    for text in ("hf://me", "hf:///x", "hf://me/x/", "me/x@", "a/b c", "-a/b", "me/x@a b/c.mpt"):
        with pytest.raises(UserError, match="must be USER/REPO"):
            parse_address(text)
    for file in ("a/../b.mpt", "/a.mpt", ".a.mpt", "a//b.mpt", "a\\b.mpt", "a.mpt/b", "ä.mpt"):
        with pytest.raises(UserError, match="the name of a ticket on the Hub"):
            hub.check_file_name(file)


def test_without_the_library_a_hint(
    server: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    hint = "me/x: the package huggingface_hub is missing: pip install 'biprop[hub]'"
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert hint in fails(capsys, "pull", "me/x")
    assert hint in fails(capsys, "push", "digits.mpt", "me/x")
    with pytest.raises(UserError, match="huggingface_hub is missing"):
        Ticket.load("hf://me/x")


def test_the_environment_names_the_server(server: Hub, tmp_path: Path) -> None:
    """In a process of its own, as users run it; a ticket is read without PyTorch."""
    server.put("you/digits", {"model.mpt": DIGITS})
    code = (
        "import sys, biprop\n"
        "assert 'huggingface_hub' not in sys.modules\n"
        "ticket = biprop.Ticket.load('hf://you/digits')\n"
        "assert 'torch' not in sys.modules\n"
        "print(ticket.kept)"
    )
    environment = {**os.environ, "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.stdout == f"{Ticket.from_bytes(DIGITS).kept}\n", done.stderr
