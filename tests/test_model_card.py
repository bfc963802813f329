"""The model card of a ticket: what it says, and what the Hub reads of it."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import ROOT, network_of, random_ticket
from huggingface_hub import ModelCard
from torch import nn

import biprop
from biprop import Ticket, UserError
from biprop.cli import command_line
from biprop.hub import Address
from biprop.report import entries, model_card

PRETRAINED = ROOT / "pretrained"


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def card_of(path: Path, run: entries.Entry | None = None, licence: str | None = None) -> str:
    (entry,) = entries.read([str(path)], pack, lambda paths, what, count: paths)
    address = Address("me/mine", file=path.name)
    publication = model_card.Publication(address, path.stat().st_size, "0" * 64, licence)
    return model_card.model_card(entry, publication, run)


def pack(path: Path) -> Ticket:
    from biprop.search.pack import pack

    return pack(path, {})


def odd_ticket(**about: Any) -> Path:
    ticket = random_ticket(network_of("Conv2Wide", channels=1, width_mult=0.0625))
    dataclasses.replace(ticket, **about).save("odd.mpt")
    return Path("odd.mpt")


@pytest.mark.parametrize("name", ["digits", "cifar10-small", "cifar10-1bit"])
def test_the_hub_reads_accuracy_and_data(name: str) -> None:
    path = PRETRAINED / f"{name}.mpt"
    card = ModelCard(card_of(path, licence="mit"))
    assert card.data.library_name == "biprop"
    assert card.data.license == "mit"
    assert card.data.pipeline_tag == "image-classification"
    (result,) = card.data.eval_results
    counts = Ticket.load(path).found["test"]
    assert result.metric_type == "accuracy"
    assert result.metric_value == pytest.approx(counts["right"] / counts["images"], abs=1e-6)
    is_cifar = name.startswith("cifar")
    assert result.dataset_type == ("uoft-cs/cifar10" if is_cifar else "digits")
    assert getattr(card.data, "datasets", None) == (["uoft-cs/cifar10"] if is_cifar else None)
    card.data.to_yaml()


def test_what_people_read() -> None:
    path = PRETRAINED / "cifar10-small.mpt"
    text = card_of(path)
    ticket = Ticket.load(path)
    assert f"Of {ticket.weights:,} random weights the search kept {ticket.kept:,} (30 %)" in text
    assert f"| file | `cifar10-small.mpt`, {path.stat().st_size:,} bytes, " in text
    assert "| classes | 10: airplane, automobile," in text
    assert "https://huggingface.co/datasets/uoft-cs/cifar10" in text
    counts = ticket.found["test"]
    assert f"({counts['right']:,} of 10,000 images)" in text
    teacher = "cifar10-dense/width_mult=1.5/prune-rate=none/find"
    assert re.search(
        rf"biprop find --config cifar10-small .*--teacher {teacher} .*--epochs 30", text
    )
    assert "arXiv 2103.09377" in text
    assert "arXiv 2106.09129" in text
    assert "None is stated for this ticket." in text
    assert model_card.is_ours(text)
    assert "This ticket is under mit." in card_of(path, licence="mit")


def test_the_python_in_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    text = card_of(PRETRAINED / "digits.mpt")
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(blocks) == 2
    monkeypatch.setattr("biprop.hub.fetch", lambda address: PRETRAINED / "digits.mpt")
    images = torch.rand(2, 1, 32, 32)
    results = []
    for block, given in zip(blocks, (images, images.numpy()), strict=True):
        names: dict[str, Any] = {"images": given}
        exec(block, names)
        results.append(torch.as_tensor(names["logits"]))
    torch.testing.assert_close(results[0].detach(), results[1], atol=1e-4, rtol=1e-4)


def test_the_folder_of_the_search_adds_what_only_it_knows(found_run: Path) -> None:
    assert command_line.main(["pack", str(found_run), "-o", "mine.mpt"]) == 0
    assert "with random scores" not in card_of(Path("mine.mpt"))
    run = model_card.read_run(found_run, Ticket.load("mine.mpt"), pack)
    text = card_of(Path("mine.mpt"), run)
    result = json.loads((found_run / "result.json").read_text())
    random_scores = result["random_scores"]
    accuracy = 100 * random_scores["right"] / random_scores["images"]
    assert f"| with random scores | {accuracy:.2f} % (the same network before" in text
    seconds = json.loads((found_run / "progress.json").read_text())["elapsed"]
    assert f"| time of the search | {seconds:,.0f} s |" in text
    assert "biprop find --config digits" in text
    other = Ticket.load(PRETRAINED / "digits.mpt")
    with pytest.raises(UserError, match="is of another search than the ticket"):
        model_card.read_run(found_run, other, pack)


def test_names_of_strangers_stay_names() -> None:
    names = ["<script>x</script>", "a|b", "[c](http://d)", "`e`", "---", "#f", "*g*", "\\h"]
    found = {
        "config": "x; rm -rf `pwd`",
        "searched_by": "<b>me</b> ```\n# no",
        "options": {"set": "folder", "prune_rate": 0.5, "layer_prune_rates": {"```": 0.5}},
        "test": {"images": 10, "right": 9},
    }
    network = network_of("Conv2Wide", channels=1, width_mult=0.0625, num_classes=8)
    ticket = random_ticket(network)
    ticket.classes, ticket.found = names, found
    ticket.save("odd.mpt")
    text = card_of(Path("odd.mpt"))
    assert "<script>" not in text
    assert "<b>" not in text
    assert "a\\|b" in text
    assert "](http://d)" not in text
    assert "rm -rf" not in text
    (fence,) = re.findall(r"^(`+)sh\nbiprop find .*```=0.5.*\n\1$", text, re.M)
    assert len(fence) == 4
    (row,) = re.findall(r"^\| classes .*$", text, re.M)
    assert len(re.findall(r"(?<!\\)\|", row)) == 3
    fields = yaml.safe_load(text.split("---\n")[1])
    assert fields["model-index"][0]["results"][0]["dataset"]["name"] == "folder"
    assert "datasets" not in fields


def test_what_a_ticket_does_not_record_is_not_made_up() -> None:
    text = card_of(odd_ticket())
    for line in ("| classes | not recorded |", "| data set | not recorded |"):
        assert line in text
    assert "How it was found" not in text
    assert "model-index" not in text
    assert ".to_model()" in text


def test_a_network_that_is_no_classifier_of_images() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    subnetwork = biprop.convert(model, density=0.5, seed=1)
    Ticket.from_model(model, subnetwork, example=torch.rand(4, 6)).save("own.mpt")
    text = card_of(Path("own.mpt"))
    assert "pipeline_tag" not in text
    assert "| input | 6 (floats) |" in text
    assert "| network | of the author's own |" in text


def test_licences_are_identifiers() -> None:
    for licence in (None, "apache-2.0", "cc-by-4.0", "mit"):
        model_card.check_licence(licence)
    for licence in ("", "MIT", "my own", "mit\ntags: [x]", "[a]"):
        with pytest.raises(UserError, match=r"--license .*: must be an identifier"):
            model_card.check_licence(licence)
