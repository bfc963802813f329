"""Functions and classes that the user names on the command line."""

import sys
from pathlib import Path

import pytest

from biprop.errors import UserError
from biprop.models.user_module import is_callable_name, load_callable

NET = """\
import neighbour
VALUE = 3
class Net:
    class Small: pass
def make(): return neighbour.NAME
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    Path("models").mkdir()
    Path("models/net.py").write_text(NET)
    Path("models/neighbour.py").write_text("NAME = 'neighbour'")


def test_a_file_is_imported_with_its_neighbours_and_once() -> None:
    path = list(sys.path)
    assert load_callable("models/net.py:make")() == "neighbour"
    assert load_callable("models/net.py:Net.Small").__name__ == "Small"
    assert load_callable("models/net.py:Net") is load_callable(f"{Path.cwd()}/models/net.py:Net")
    assert sys.path == path


def test_a_module_is_found_in_the_current_folder() -> None:
    path = list(sys.path)
    Path("package").mkdir()
    Path("package/inner.py").write_text("def make(): return 5")
    assert load_callable("package.inner:make")() == 5
    assert load_callable("collections:OrderedDict").__name__ == "OrderedDict"
    assert sys.path == path


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("models/net.py", "--arch models/net.py: must be FILE.py:NAME or PACKAGE.MODULE:NAME"),
        (":Net", "must be FILE.py:NAME"),
        ("models/net.py:", "must be FILE.py:NAME"),
        ("models/net.py:1+1", "must be FILE.py:NAME"),
        ("models/net:Net", "must be FILE.py:NAME"),
        ("none.py:Net", "--arch none.py: no such file"),
        ("models/net.py:Nett", "models/net.py has no Nett; did you mean 'Net'"),
        ("models/net.py:VALUE", "a value of type int: must be a class or a function"),
        ("no_such_package:Net", "cannot be imported: ModuleNotFoundError: No module named"),
        ("broken.py:Net", "--arch broken.py: cannot be imported: ZeroDivisionError: division"),
        ("typo.py:Net", "--arch typo.py: cannot be imported: SyntaxError: "),
    ],
)
def test_mistakes(spec: str, message: str) -> None:
    Path("broken.py").write_text("1 / 0")
    Path("typo.py").write_text("class Net")
    with pytest.raises(UserError) as error:
        load_callable(spec)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_failed_is_executed_again() -> None:
    Path("broken.py").write_text("1 / 0")
    with pytest.raises(UserError):
        load_callable("broken.py:make")
    Path("broken.py").write_text("def make(): return 'mended'")
    assert load_callable("broken.py:make")() == "mended"


def test_names_of_networks_are_no_callables() -> None:
    assert is_callable_name("net.py:Net")
    assert not is_callable_name("cResNet18")
