"""Distillation: a search learns the predictions of a ticket, a run or a checkpoint."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import network_of, random_ticket, write_image_folder

from biprop import UserError, checkpoint, config, data
from biprop.console import Console
from biprop.evaluation import subject
from biprop.runs.folder import BEST, CHECKPOINTS, LAST
from biprop.search import teacher
from biprop.search.loop import Search
from biprop.search.pack import _teacher_name, pack

QUICK = {"epochs": 1, "low_data": 0.2, "width_mult": 0.25, "device": "cpu", "baseline": False}


def search_on_digits(folder: Path, **overrides: Any) -> Search:
    options, name = config.resolve(None, {**QUICK, "log_dir": str(folder), **overrides})
    return Search(options, name, data.load(options), Console(io.StringIO()))


def scores_of(search: Search) -> torch.Tensor:
    """All scores, one after the other, of a search that has run."""
    fields = checkpoint.load(search.folder / CHECKPOINTS / BEST)
    scores = [v.flatten() for k, v in fields["state_dict"].items() if k.endswith("scores")]
    return torch.cat(scores)


def gradient_step(search: Search) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Loss, logits and labels of the first batch."""
    images, labels, taught = next(search.lessons.of_epoch(0))
    search.network.model.eval()
    return search._loss(images, labels, taught), search.network.model(images), labels


@pytest.mark.parametrize("kind", ["run", "checkpoint", "ticket"])
def test_the_loss_has_the_predictions_of_any_kind_of_file(
    kind: str, found_run: Path, tmp_path: Path
) -> None:
    """Against the formula of Hinton et al. in PyTorch's functions."""
    files = {"run": found_run, "checkpoint": found_run / CHECKPOINTS / BEST}
    files["ticket"] = tmp_path / "teacher.mpt"
    pack(found_run, {}).save(files["ticket"])
    search = search_on_digits(
        tmp_path, teacher=str(files[kind]), teacher_weight=0.7, teacher_temperature=3.0
    )
    search.open_folder()
    loss, logits, labels = gradient_step(search)
    known = subject.of_file(files[kind], {})
    images, _, _ = next(search.lessons.of_epoch(0))
    known.model.eval()
    softened = (known.model(images) / 3).softmax(1)
    entropy = -(softened * softened.log()).sum(1).mean()
    divergence = F.cross_entropy(logits / 3, softened) - entropy
    expected = 0.3 * F.cross_entropy(logits, labels) + 0.7 * 9 * divergence
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


def test_a_teacher_changes_what_is_found_and_learns_nothing(
    found_run: Path, tmp_path: Path
) -> None:
    taught = search_on_digits(tmp_path / "a", teacher=str(found_run))
    assert taught.teacher
    before = {name: value.clone() for name, value in taught.teacher.state_dict().items()}
    taught.run()
    for name, value in taught.teacher.state_dict().items():  # its batch norm's statistics, too
        assert torch.equal(value, before[name]), name
    alone = search_on_digits(tmp_path / "b")
    alone.run()
    assert not torch.equal(scores_of(taught), scores_of(alone))
    ignored = search_on_digits(tmp_path / "c", teacher=str(found_run), teacher_weight=0.0)
    ignored.run()
    assert torch.equal(scores_of(ignored), scores_of(alone))


def test_a_search_that_is_resumed_has_its_teacher(
    found_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = search_on_digits(tmp_path / "a", teacher=str(found_run), epochs=2)
    whole.run()
    stopped = search_on_digits(tmp_path / "b", teacher=str(found_run), epochs=2)
    save = stopped._save

    def stop(name: str, *counts: Any) -> None:
        save(name, *counts)
        if name == LAST:
            raise KeyboardInterrupt

    monkeypatch.setattr(stopped, "_save", stop)
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    start = checkpoint.read(stopped.folder / CHECKPOINTS / LAST, {})
    assert (start.epoch, start.config.teacher) == (1, str(found_run))
    images = data.load(start.config)
    resumed = Search(start.config, "digits", images, Console(io.StringIO()), start, resume=True)
    resumed.run()
    assert torch.equal(scores_of(resumed), scores_of(whole))


@pytest.mark.parametrize("augment", ["crop", "crop+flip"])
def test_a_teacher_may_see_every_image_once_as_it_is(
    augment: str, found_run: Path, tmp_path: Path
) -> None:
    """And its mirror image, where images are flipped. Rows belong to the images of the batches,
    from the middle of an epoch on, too.
    """
    search = search_on_digits(
        tmp_path, teacher=str(found_run), teacher_views="plain", augment=augment, low_data=0.5
    )  # more images than a batch of the teacher has
    images, labels = next(search.data.evaluation_batches(search.data.train, 10_000))
    known = subject.of_file(found_run, {}).model.eval()
    with torch.no_grad():
        expected = known(images)
        if "flip" in augment:
            expected = (expected + known(images.flip(-1))) / 2
    for first in (0, 2):
        rows = search.data.training_indices(search.config.batch_size, 0, 1)[first:]
        for (_, own, taught), row in zip(search.lessons.of_epoch(1, first), rows, strict=True):
            assert torch.equal(own, labels[row])
            torch.testing.assert_close(taught, expected[row], rtol=1e-4, atol=1e-4)


def test_a_teacher_that_has_seen_all_images_is_not_asked_again(
    found_run: Path, tmp_path: Path
) -> None:
    search = search_on_digits(tmp_path, teacher=str(found_run), teacher_views="plain", epochs=2)
    assert search.teacher
    seen: list[int] = []
    search.teacher.register_forward_hook(lambda module, images, logits: seen.append(len(logits)))
    search.run()
    assert sum(seen) == len(search.data.train)


def test_a_file_from_elsewhere_names_no_teacher(found_run: Path, tmp_path: Path) -> None:
    """Only the command line, and the settings of the run folder that a checkpoint lies in."""
    search = search_on_digits(tmp_path, teacher=str(found_run))
    search.run()
    moved = tmp_path / "elsewhere.pth"
    moved.write_bytes((search.folder / CHECKPOINTS / BEST).read_bytes())
    start = checkpoint.read(moved, {})
    assert start.config.teacher is None
    with pytest.raises(UserError, match=r"has a teacher, .*: pass --teacher FILE"):
        Search(start.config, search.config_name, search.data, Console(), start, True)
    ticket = pack(search.folder, {})
    assert ticket.found["teacher"] == "digits/prune-rate=0.2/find"
    assert str(tmp_path) not in str(ticket.found)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/home/me/best.mpt", "best.mpt"),
        ("runs/cifar10-dense/prune-rate=none/find", "cifar10-dense/prune-rate=none/find"),
        ("/x/fast/width_mult=2/prune-rate=0.3/a/1", "fast/width_mult=2/prune-rate=0.3/a/1"),
        ("prune-rate=none/find", "find"),
    ],
)
def test_tickets_record_a_teacher_without_its_place(path: str, name: str) -> None:
    assert _teacher_name(path) == name


def test_images_are_normalised_as_the_teacher_needs_them(tmp_path: Path) -> None:
    ticket = random_ticket(network_of("Conv2", (8, 8)))
    ticket = replace(ticket, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    ticket.save(tmp_path / "teacher.mpt")
    network = subject.of_file(tmp_path / "teacher.mpt", {"set": "CIFAR10"})

    class Data:
        mean, std, input_size = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), (8, 8)

    pixels = torch.rand(5, 3, 8, 8)
    mean, std, own_mean, own_std = (
        torch.tensor(values).view(3, 1, 1)
        for values in (Data.mean, Data.std, ticket.mean, ticket.std)
    )
    made = teacher.Teacher(network, Data)  # type: ignore[arg-type]
    torch.testing.assert_close(
        made((pixels - mean) / std), network.model((pixels - own_mean) / own_std)
    )


@pytest.mark.parametrize(
    ("size", "match"),
    [
        (None, "--teacher .*missing.mpt: cannot be read: No such file"),
        ((32, 32), "--teacher .*a.mpt: made for 10 classes of 3 x 32 x 32 images, but the data"),
    ],
)
def test_a_teacher_that_cannot_teach(
    size: tuple[int, int] | None, match: str, tmp_path: Path
) -> None:
    file = tmp_path / "missing.mpt"
    if size:
        file = tmp_path / "a.mpt"
        random_ticket(network_of("Conv2", size)).save(file)
    with pytest.raises(UserError, match=match):
        search_on_digits(tmp_path, teacher=str(file))


def test_a_deck_is_no_teacher(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--teacher a\.deck: a deck: .* pass a ticket"):
        search_on_digits(tmp_path, teacher="a.deck")


def test_streamed_images_are_no_plain_ones(found_run: Path, tmp_path: Path) -> None:
    images = write_image_folder(tmp_path / "images", count=8, side=8)
    options = {"set": "folder", "data": str(images), "stream": True, "image_size": 8, "workers": 0}
    with pytest.raises(UserError, match="--teacher-views plain: the search sees random parts"):
        search_on_digits(tmp_path, **options, teacher=str(found_run), teacher_views="plain")


def test_options_that_make_no_sense() -> None:
    with pytest.raises(UserError, match="teacher: must not be empty"):
        config.resolve(None, {"teacher": ""})
    with pytest.raises(UserError, match=r"--teacher-weight 1\.5: must be at least 0 and at most 1"):
        config.resolve(None, {"teacher": "a.mpt", "teacher_weight": 1.5})
    for given in ({"teacher_temperature": 4}, {"teacher_views": "plain"}):
        options, _ = config.resolve(None, given)
        assert any("pass --teacher FILE" in text for text in config.warnings(options))
    options, _ = config.resolve(None, {"teacher_temperature": 4, "teacher": "a.mpt"})
    assert not config.warnings(options)
