"""The commands robustness and deck, with small tickets of the digits."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import network_of, png, random_ticket
from test_cli import fails

from biprop import Deck, Ticket
from biprop.cli import command_line
from biprop.data import DataSet, digits
from biprop.robustness import measure

DIGITS = DataSet(digits.digits())
FEW = ["--corruptions", "fog,noise", "--severities", "1,4", "--images", "40"]


def card(seed: int, **options: object) -> Ticket:
    ticket = random_ticket(network_of("Conv2Wide", channels=1, width_mult=0.0625), seed=seed)
    ticket.mean, ticket.std, ticket.classes = DIGITS.mean, DIGITS.std, DIGITS.classes
    ticket.found = {"options": {"set": "digits", **options}}
    return ticket


@pytest.fixture(autouse=True)
def _in_a_folder_of_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """a.mpt and b.mpt, and both in two.deck with a gate."""
    monkeypatch.chdir(tmp_path)
    card(0, augmix=True).save("a.mpt")
    card(1, gaussian_aug=True).save("b.mpt")
    assert command_line.main(["deck", "build", "a.mpt", "b.mpt", "-o", "two.deck"]) == 0


def test_a_ticket_gets_a_table_and_files(capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert command_line.main(["robustness", "a.mpt", *FEW]) == 0
    out = capsys.readouterr().out
    assert "a.mpt: corrupted here, from 40 test images (seed 0); not the published files" in out
    assert re.search(r"accuracy, % +severity 1 +severity 4 +mean", out)
    assert re.search(r"fog( +\d+\.\d\d){3}", out)
    assert re.search(r"clean +corrupted +noise +weather\n +a( +\d+\.\d\d){4}", out)
    told = json.loads(Path("a.robustness.json").read_text())
    (result,) = told["results"]
    assert list(result["corruptions"]) == ["fog", "gaussian_noise", "shot_noise", "impulse_noise"]
    cells = [cell["accuracy"] for of in result["corruptions"].values() for cell in of.values()]
    (clean,) = re.findall(r"clean +corrupted +noise +weather\n +a +(\d+\.\d\d)", out)
    assert float(clean) == pytest.approx(result["clean"]["accuracy"], abs=0.006)
    assert result["mean"] == pytest.approx(sum(cells) / len(cells), abs=1e-3)
    rows = list(csv.DictReader(Path("a.robustness.csv").read_text().splitlines()))
    assert len(rows) == 9
    assert {row["images"] for row in rows} == {"40"}
    assert Path("a.robustness.png").read_bytes().startswith(b"\x89PNG")


def test_the_engine_and_pytorch_agree_and_a_network_is_its_own_reference(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command_line.main(["robustness", "a.mpt", *FEW]) == 0
    arguments = [
        "robustness",
        "a.mpt",
        *FEW,
        "--engine",
        "--reference",
        "a.robustness.json",
        "-o",
        "again.csv",
    ]
    assert command_line.main(arguments) == 0
    first, again = (
        json.loads(Path(f"{name}.json").read_text())["results"][0]
        for name in ("a.robustness", "again")
    )
    assert again.pop("mce") == 100
    first.pop("mce")
    assert again == first
    assert re.search(r"mCE\n.*100\.00\n", capsys.readouterr().out)


@pytest.mark.parametrize("engine", [[], ["--engine"]])
def test_a_deck_is_measured_card_by_card_and_together(
    capsys: pytest.CaptureFixture[str], engine: list[str]
) -> None:
    assert command_line.main(["robustness", "two.deck", *FEW, *engine]) == 0
    results = {
        one["name"]: one for one in json.loads(Path("two.robustness.json").read_text())["results"]
    }
    assert list(results) == ["a", "b", "deck, mean", "deck, gated by batch", "deck, gated by image"]
    numbers = np.arange(40) * len(DIGITS.test) // 40
    pixels, labels = DIGITS.test.images[numbers].numpy(), DIGITS.test.labels[numbers].numpy()  # type: ignore[attr-defined]
    deck = Deck.load("two.deck")
    for name, gating in (
        ("deck, mean", "none"),
        ("deck, gated by batch", "batch"),
        ("deck, gated by image", "image"),
    ):
        right = int((deck.predict(pixels, gating).argmax(1) == labels).sum())  # type: ignore[arg-type]
        assert results[name]["clean"]["right"] == right
    assert command_line.main(["robustness", "a.mpt", *FEW]) == 0
    alone = json.loads(Path("a.robustness.json").read_text())["results"][0]
    assert results["a"]["corruptions"] == alone["corruptions"]


def test_published_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    images = DIGITS.test.images[:30].permute(0, 2, 3, 1).numpy()  # type: ignore[attr-defined]
    np.save(folder / "fog.npy", np.concatenate([images] * 5))
    np.save(folder / "labels.npy", np.tile(DIGITS.test.labels[:30].numpy(), 5))
    arguments = ["robustness", "a.mpt", "--corruptions", "fog", "--corrupted", str(folder)]
    assert command_line.main(arguments) == 0
    assert f"published files in {folder}, 30 images each" in capsys.readouterr().out
    cells = json.loads(Path("a.robustness.json").read_text())["results"][0]["corruptions"]["fog"]
    assert len({cell["right"] for cell in cells.values()}) == 1
    np.save(folder / "fog.npy", images)
    np.save(folder / "labels.npy", np.zeros(29, dtype=np.int64))
    assert "fog.npy: 30 images, and 29 labels" in fails(capsys, *arguments, "--overwrite")


def test_inspecting_a_deck(capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert command_line.main(["inspect", "two.deck"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"\n +b +Conv2Wide", out)
    assert re.search(r"images with AugMix 3 +a \d+ %, b \d+ %", out)
    assert (
        command_line.main(["deck", "build", "a.mpt", "b.mpt", "-o", "plain.deck", "--no-gate"]) == 0
    )
    assert "none: the mean of the cards answers" in capsys.readouterr().out


def test_predicting_by_a_deck(capsys: pytest.CaptureFixture[str]) -> None:
    pixels = DIGITS.test.images[:3].numpy()  # type: ignore[attr-defined]
    Path("pictures").mkdir()
    for number, one in enumerate(pixels):
        Path(f"pictures/{number}.png").write_bytes(png(one[0]))
    deck = Deck.load("two.deck")
    for flags, gating in (
        ([], "image"),
        (["--gating", "batch"], "batch"),
        (["--gating", "none"], "none"),
    ):
        capsys.readouterr()
        assert command_line.main(["predict", "two.deck", "pictures", "--json", *flags]) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        found = [list(row["probabilities"].values()) for row in rows]
        assert np.allclose(found, deck.predict(pixels, gating, "NCHW"), atol=1e-6)  # type: ignore[arg-type]
    assert "--calibration: is for tickets" in fails(
        capsys, "predict", "two.deck", "pictures", "--calibration", "pictures"
    )


def test_mistakes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "did you mean 'fog'" in fails(capsys, "robustness", "a.mpt", "--corruptions", "frog")
    assert "--severities 0: must be 1, 2, 3, 4 or 5" in fails(
        capsys, "robustness", "a.mpt", "--severities", "0"
    )
    assert "--severities 6" in fails(capsys, "robustness", "a.mpt", "--severities", "5,6")
    assert "--images 0: must be 1 or more" in fails(capsys, "robustness", "a.mpt", "--images", "0")
    assert "--seed -1" in fails(capsys, "robustness", "a.mpt", "--seed", "-1")
    assert "no.mpt: cannot be read" in fails(capsys, "robustness", "no.mpt")
    assert "no such folder" in fails(capsys, "robustness", "a.mpt", "-o", "none/x")
    assert "--reference alexnet: its errors are those on ImageNet-C" in fails(
        capsys, "robustness", "a.mpt", "--reference", "alexnet"
    )
    Path("bad.deck").write_bytes(Path("two.deck").read_bytes()[:-9])
    assert "bad.deck: damaged" in fails(capsys, "robustness", "bad.deck")
    assert "two.deck: a deck, not a ticket" in fails(capsys, "bench", "two.deck")
    other = card(2)
    other.classes = [*DIGITS.classes[1:], "ten"]
    other.save("c.mpt")
    assert "c has other classes than a" in fails(
        capsys, "deck", "build", "a.mpt", "c.mpt", "-o", "x.deck"
    )
    other = card(2)
    other.mean = other.std = ()
    other.save("d.mpt")
    assert "d: does not tell its normalisation" in fails(
        capsys, "deck", "build", "a.mpt", "d.mpt", "-o", "x.deck"
    )
    assert "the name of a deck ends with .deck" in fails(
        capsys, "deck", "build", "a.mpt", "-o", "x.mpt"
    )
    assert not Path("x.deck").exists()
    assert "--engine: runs tickets and decks" in fails(capsys, "robustness", "a.pth", "--engine")


NET = """\
import torch
class Net(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(1024, 10))
class Wide(torch.nn.Linear): pass
def made(): return Net()
value = torch.nn.functional.relu
def number(): return 3
"""


@pytest.fixture
def _own_network() -> None:
    """net.py with networks, and net.pth with weights of one."""
    Path("net.py").write_text(NET)
    torch.manual_seed(3)
    torch.save(
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1024, 10)).state_dict(), "net.pth"
    )


OWN = ["robustness", "--arch", "net.py:Net", "--weights", "net.pth"]


@pytest.mark.usefixtures("_own_network")
def test_a_model_of_the_users_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main([*OWN, "--set", "digits", "--on-pixels", *FEW]) == 0
    assert "net.py:Net: corrupted here, from 40 test images" in capsys.readouterr().out
    recorded = json.loads(Path("Net.robustness.json").read_text())
    assert recorded["weights"] == "net.pth"
    assert recorded["normalised by"] == "the model"
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1024, 10))
    model.load_state_dict(torch.load("net.pth"))
    expected = measure(
        model, DIGITS, on_pixels=True, corruptions="fog,noise", severities="1,4", images=40
    )
    (result,) = recorded["results"]
    assert result["name"] == "Net"
    assert result["clean"]["right"] == expected.clean.right
    for (name, severity), counts in expected.cells.items():
        assert result["corruptions"][name][str(severity)]["right"] == counts.right
    normalised = [*OWN, "--set", "digits", "--mean", "0.1", "--std", "0.5", *FEW, "-o", "n"]
    assert command_line.main(normalised) == 0
    assert json.loads(Path("n.json").read_text())["normalised by"] == "the given mean and std"
    reference = ["--reference", "n.json", "-o", "own"]
    made = ["robustness", "--arch", "net.py:made", "--set", "digits", *FEW, *reference]
    assert command_line.main(made) == 0


@pytest.mark.usefixtures("_own_network")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["robustness"], "name what to measure: biprop robustness FILE, or --arch FILE.py:NAME"),
        (["robustness", "a.mpt", "--on-pixels"], "--on-pixels: is for a model of your own"),
        (OWN, "pass --data DIR, or --set digits"),
        ([*OWN, "--set", "digits", "--engine"], "--engine: runs tickets and decks"),
        ([*OWN, "--set", "digits", "--mean", "a,b"], "--mean a,b: must be numbers"),
        ([*OWN, "--set", "digits", "--mean", "1,2"], "mean = [1.0, 2.0]: must be 1 numbers"),
        ([*OWN, "--data", "none"], "--data none: no such folder"),
        (
            ["robustness", "--arch", "net.py:Wide", "--set", "digits"],
            "net.py:Wide: needs arguments that the data do not decide: pass --arch-args out_f",
        ),
        (
            ["robustness", "--arch", "net.py:number", "--set", "digits"],
            "net.py:number: gives a int: must give a torch.nn.Module",
        ),
        (["robustness", "--arch", "cResNet18", "--set", "digits"], "must be FILE.py:NAME"),
    ],
)
def test_mistakes_with_a_model_of_the_users_own(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert message in fails(capsys, *arguments)
    assert not list(Path().glob("*.json"))


def test_no_measurement_is_overwritten_unasked(capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--corruptions", "fog", "--severities", "1", "--images", "9"]
    assert command_line.main(["robustness", "a.mpt", *few]) == 0
    before = Path("a.robustness.json").read_bytes()
    assert "a.robustness.csv: exists: pass --overwrite" in fails(
        capsys, "robustness", "a.mpt", *few
    )
    reference = ["--reference", "a.robustness.json", "--overwrite"]
    assert "would be overwritten by the result: pass another -o" in fails(
        capsys, "robustness", "a.mpt", *few, *reference
    )
    assert Path("a.robustness.json").read_bytes() == before
    fewer = ["--corruptions", "fog", "--severities", "1", "--images", "5", "-o", "b"]
    arguments = ["robustness", "a.mpt", *fewer, "--reference", "a.robustness.json"]
    assert command_line.main(arguments) == 0
    assert "warning: mCE: the reference was measured on" in capsys.readouterr().err
    more = ["--corruptions", "fog", "--severities", "1,2", "--images", "9"]
    assert command_line.main(["robustness", "a.mpt", *more, "--overwrite"]) == 0
    assert Path("a.robustness.json").read_bytes() != before


def test_mce_is_undefined_where_the_reference_makes_no_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    few = ["--corruptions", "fog,snow", "--severities", "1", "--images", "9"]
    assert command_line.main(["robustness", "a.mpt", *few]) == 0
    path = Path("a.robustness.json")
    recorded = json.loads(path.read_text())
    recorded["results"][0]["corruptions"]["snow"]["1"]["accuracy"] = 100.0
    path.write_text(json.dumps(recorded))
    capsys.readouterr()
    arguments = ["robustness", "a.mpt", *few, "--reference", str(path), "-o", "b"]
    assert command_line.main(arguments) == 0
    shown = capsys.readouterr()
    assert re.search(r"mCE\n.*undefined\n", shown.out)
    assert "mCE is undefined: the reference makes no error under snow;" in shown.err
    assert json.loads(Path("b.json").read_text())["results"][0]["mce"] is None


def test_names_of_cards_are_paths_where_names_are_the_same() -> None:
    Path("other").mkdir()
    card(3).save("other/a.mpt")
    assert (
        command_line.main(["deck", "build", "a.mpt", "other/a.mpt", "-o", "same.deck", "--no-gate"])
        == 0
    )
    assert Deck.load("same.deck").names == ["a.mpt", "other/a.mpt"]


def test_where_there_is_no_matplotlib(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("biprop.robustness.plots.is_installed", lambda: False)
    assert (
        command_line.main(
            ["robustness", "a.mpt", "--corruptions", "fog", "--severities", "1", "--images", "3"]
        )
        == 0
    )
    assert capsys.readouterr().out.endswith(
        "for a bar chart as well: pip install 'biprop[plots]'\n"
    )
    assert not Path("a.robustness.png").exists()
