"""The page of biprop report and its sections, read back by an HTML parser; in a browser, where
there is one.
"""

import html
import json
import math
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import network_of, random_ticket
from pages import Element, parse
from run_folders import DIGITS_TICKET, epoch_line, read_all, write_run, write_sweep

from biprop import Deck, Ticket
from biprop.report import contents, heat_maps, mistakes, training
from biprop.report.entries import Entry
from biprop.report.markup import document, element
from biprop.report.measurements import Answer, Measured
from biprop.report.page import detailed, page
from biprop.report.predictions import Mistake, Predictions

HOSTILE = "<script>alert(1)</script>\"'&<b>"
PICTURE = Mistake(np.full((1, 8, 8), 200, np.uint8), 0, 1, 0.875)


def predictions(*names: str, count: int = 2) -> Predictions:
    classes = [*names, *map(str, range(count - len(names)))]
    matrix = np.eye(count, dtype=np.int64) * 7
    matrix[0, 1] = 3
    return Predictions(classes, matrix, [PICTURE])


def written(entries: list[Entry], **parts: Any) -> str:
    of_networks = parts.get("predictions", {})
    return page("a title", entries, detailed(entries), of_networks, parts.get("measured", ()))


def sections(text: str) -> dict[str, Element]:
    return {section.attributes["id"]: section for section in parse(text).all("section")}


@pytest.fixture(scope="module")
def whole_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page with every section."""
    folder = tmp_path_factory.mktemp("page")
    sweep = write_sweep(folder, [("0.5", 0), ("0.5", 1), ("0.2", 0)])
    ticket = Ticket.load(DIGITS_TICKET)
    Deck([ticket, ticket], ["a", "b"]).save(folder / "two.deck")
    entries = read_all(sweep, DIGITS_TICKET, folder / "two.deck")
    answer = Answer("digits", 99.0, {("fog", 1): 60.0, ("fog", 5): 20.0})
    measured = [Measured(Path("x.json"), "", [answer])]
    of_networks = {"digits.mpt": predictions("zero", "one")}
    return written(entries, predictions=of_networks, measured=measured)


def test_every_section_is_there_and_linked(whole_page: str) -> None:
    text = whole_page
    assert list(sections(text)) == [
        *("summary", "training", "comparison", "decks", "layers", "bytes", "filters"),
        *("robustness", "mistakes", "recipe", "missing"),
    ]
    root = parse(text)
    ids = [part.attributes["id"] for part in root.all("*") if "id" in part.attributes]
    assert len(ids) == len(set(ids))
    links = {link.attributes["href"] for link in root.all("a")}
    assert links <= {f"#{name}" for name in ids}
    assert root.only("html").attributes["lang"] == "en"
    assert root.only("head").only("title").text == root.only("h1").text == "a title"


def test_a_page_loads_nothing_and_runs_nothing(whole_page: str) -> None:
    text = whole_page
    root = parse(text)
    assert not root.all("script") + root.all("link") + root.all("iframe") + root.all("object")
    for part in root.all("*"):
        for name, value in part.attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "action", "data", "poster", "srcset"):
                assert value.startswith(("data:image/png;base64,", "#"))
            assert name == "content" or "url(" not in value
    style = root.only("style").text
    assert "url(" not in style
    assert "@import" not in style
    assert "http" not in re.sub(r"http-equiv", "", text)
    policies = [m for m in root.all("meta") if "http-equiv" in m.attributes]
    assert policies[0].attributes["content"].startswith("default-src 'none'; ")
    assert len(text) < 500_000


def test_each_chart_has_its_numbers_beside_it(whole_page: str) -> None:
    for name, section in sections(whole_page).items():
        if section.all("svg", "chart"):
            tables = [table for part in section.all("details") for table in part.all("table")]
            assert tables, name
        for svg in section.all("svg"):
            assert svg.attributes.get("aria-hidden") == "true" or svg.attributes["aria-label"]


def test_names_from_files_are_escaped(tmp_path: Path) -> None:
    folder = tmp_path / "<script>" / "prune-rate=1" / "<img src=x onerror=alert(1)>"
    write_run(folder, name="<b>x")
    row = {"Base Config": HOSTILE}
    (folder / "results_row.json").write_text(json.dumps(row))
    (folder / "layers.json").write_text(json.dumps([{"name": HOSTILE, "weights": 4, "kept": 2}]))
    (run,) = read_all(folder)
    ticket = Ticket.load(DIGITS_TICKET)
    ticket.classes = [HOSTILE] * 10
    ticket.found |= {"config": HOSTILE, "by": HOSTILE, "packed": HOSTILE}
    ticket.save(tmp_path / "<u>.mpt")
    (packed,) = read_all(tmp_path / "<u>.mpt")
    answer = Answer(HOSTILE, 99.0, {("fog", 1): 60.0})
    text = written(
        [run, packed],
        predictions={HOSTILE: predictions(HOSTILE)},
        measured=[Measured(Path(HOSTILE), HOSTILE, [answer])],
    )
    for tag in ("<script", "<b>", "<img src=x", "<u>"):
        assert tag not in text
    root = parse(text)
    assert not root.all("script") + root.all("b") + root.all("u")
    assert HOSTILE in root.text
    assert "<script>/prune-rate=1/<img src=x onerror=alert(1)>" in root.text


@pytest.mark.parametrize(
    "values",
    [
        {"train/loss": math.nan, "validation/loss": math.inf},
        {"train/loss": 1e308, "validation/loss": -1e308, "train/top1": 10**400},
        {"train/loss": "x", "validation/loss": None, "train/top1": [], "density": {}},
        {"train/loss": True, "validation/top1": -math.inf, "lr": math.nan, "seconds": "<b>"},
        {"epoch": 10**400},
        {"epoch": -5, "density": math.nan},
    ],
)
def test_values_that_are_not_finite_do_not_break_the_page(
    values: dict[str, Any], tmp_path: Path
) -> None:
    folder = write_run(tmp_path / "a")
    lines = [epoch_line(1), {**epoch_line(2), **values}, epoch_line(3)]
    (folder / "logs/metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    section = sections(written(read_all(folder)))["training"]
    for part in section.all("*"):
        for name in ("d", "cx", "cy", "x", "y", "transform", "viewbox"):
            assert not re.search("nan|inf|e[+-]", part.attributes.get(name, ""), re.I)
    assert section.all("path", "line")


def test_a_run_of_which_nothing_is_finite_still_has_a_page(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    line = epoch_line(1, **{"train/loss": math.nan, "validation/loss": math.nan})
    (folder / "logs/metrics.jsonl").write_text(json.dumps(line) + "\n")
    assert "no finite values" in sections(written(read_all(folder)))["training"].text


def test_what_is_missing_says_what_adds_it(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    (folder / "logs/metrics.jsonl").unlink()
    (folder / "result.json").unlink()
    parts = sections(written(read_all(folder)))
    assert "training" not in parts
    assert "comparison" not in parts
    text = parts["missing"].text
    assert f"see biprop status {folder}" in text
    assert f"biprop robustness {folder} adds them" in text
    assert "no curves" in text


# Training


def test_curves_of_several_runs_lie_over_each_other(tmp_path: Path) -> None:
    entries = read_all(write_run(tmp_path / "a"), write_run(tmp_path / "b"))
    text = written(entries)
    loss, accuracy = sections(text)["training"].all("svg", "chart")
    for svg in (loss, accuracy):
        assert len(svg.all("g", "e0")) == len(svg.all("g", "e1")) == 2  # validation and training
        marks = [path.text for path in svg.all("path") if "transform" in path.attributes]
        assert len(marks) == 2
        assert all("epoch 2, validation" in mark and "best" in mark for mark in marks)
    boxes = [part.attributes for part in parse(text).all("input")]
    assert [box["id"] for box in boxes] == ["show-0", "show-1"]
    tables = sections(text)["training"].all("table")
    assert tables[0].rows()[2][:4] == ["2 (best)", "0.5", "82", "0.75"]


def test_curves_on_test_images_say_so(tmp_path: Path) -> None:
    """Where a search held no images out, what it measured after each epoch are test images."""
    (entry,) = read_all(write_run(tmp_path / "a", select_on="last"))
    section = sections(written([entry]))["training"]
    heads = section.all("table")[0].rows()[0]
    assert heads[3:5] == ["test loss", "test, %"]
    assert "epoch 2, test top1" in section.text
    assert "Solid: test images." in section.text
    assert entry.counts.keys() == {"test"}
    assert "validation" not in section.text
    both = read_all(tmp_path / "a", write_run(tmp_path / "b"))
    assert "Solid: validation or test images." in sections(written(both))["training"].text


def test_a_long_run_keeps_its_best_and_its_last_epoch(tmp_path: Path) -> None:
    (entry,) = read_all(write_run(tmp_path / "a", epochs=500))
    entry.best_epoch = 333
    epochs = [line["epoch"] for line in training.plotted_epochs(entry)]
    assert len(epochs) <= training.MOST_EPOCHS + 2
    assert epochs[0] == 1
    assert {333, 500} <= {*epochs}


def test_a_loss_of_hundreds_does_not_hide_the_others(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    lines = [epoch_line(1, **{"train/loss": 900.0}), epoch_line(2), epoch_line(3)]
    (folder / "logs/metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    loss = sections(written(read_all(folder)))["training"].all("svg", "chart")[0]
    assert {"1", "10", "100"} <= {text.text for text in loss.all("text")}


def test_a_density_that_changes_has_a_chart(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    lines = [epoch_line(1, density=0.5), epoch_line(2), epoch_line(3)]
    (folder / "logs/metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    captions = [c.text for c in sections(written(read_all(folder)))["training"].all("figcaption")]
    assert captions[-1] == "Weights kept over epochs"


# Comparison


def test_a_sweep_is_mean_and_spread(tmp_path: Path) -> None:
    entries = read_all(write_sweep(tmp_path, [("0.5", 0), ("0.5", 2), ("0.2", 0), ("0.2", 4)]))
    section = sections(written(entries))["comparison"]
    (svg,) = section.all("svg", "chart")  # no tickets: no chart of bytes
    assert len(svg.all("path", "bar")) == 2 * 3
    _, first, second = section.only("table").rows()
    assert first[1:5] == ["2", "28.75 ± 0.00", "", "91.00 ± 1.41"]
    assert second[4:] == ["92.00 ± 2.83", "90.00", "94.00"]


def test_more_runs_than_a_chart_can_tell_apart(tmp_path: Path) -> None:
    entries = read_all(write_sweep(tmp_path, [("0.5", seed) for seed in range(10)]))
    parts = sections(written(entries))
    assert len(parts["summary"].only("table").rows()) == 11
    assert "8 of the 10 are drawn below" in parts["summary"].text
    assert len(parts["training"].all("table")) == 8
    assert parts["comparison"].only("table").rows()[1][1] == "10"
    chosen = [entry.name for entry in detailed(entries)]
    assert chosen == [entries[i].name for i in (0, 1, 2, 3, 5, 6, 7, 8)]


# Contents


def test_the_bytes_of_a_ticket_add_up() -> None:
    section = sections(written(read_all(DIGITS_TICKET)))["bytes"]
    heads, row = section.all("table")[0].rows()
    assert heads[1:5] == ["masks", "signs", "batch norm and dense", "the rest"]
    *parts, whole = (int(cell.replace(",", "")) for cell in row[1:])
    assert sum(parts) == whole == DIGITS_TICKET.stat().st_size
    widths = [float(rect.attributes["width"]) for rect in section.all("rect")]
    assert widths[0] / sum(widths) == pytest.approx(parts[0] / whole, abs=1e-3)


def test_cards_of_a_deck_are_hidden_with_their_deck(tmp_path: Path) -> None:
    ticket = Ticket.load(DIGITS_TICKET)
    Deck([ticket, ticket], ["a", "b"]).save(tmp_path / "two.deck")
    entries = read_all(tmp_path / "two.deck", DIGITS_TICKET)
    assert [entry.kind for entry in detailed(entries)] == ["ticket", "deck"]
    groups = sections(written(entries))["layers"].only("svg", "chart").all("g", "e1")
    assert sorted(group.attributes["class"] for group in groups) == ["c1 e1", "c2 e1"]


@pytest.mark.parametrize(
    ("shape", "input_size", "expected"),
    [
        ((16, 1, 3, 3), None, (16, 1, 3, 3)),
        ((100, 7, 5, 5), None, (64, 3, 5, 5)),
        ((300, 784), (1, 28, 28), (7, 1, 28, 28)),
        ((300, 784, 1, 1), (1, 28, 28), (7, 1, 28, 28)),
        ((300, 784), None, None),
        ((300, 784), (3, 28, 28), None),
        ((300, 1568), (1, 28, 28), None),
        ((8, 4, 3), None, None),
        ((0, 4, 3, 3), None, None),
        ((8, 3, 99, 99), None, None),
    ],
)
def test_filters_as_tiles(
    shape: tuple[int, ...], input_size: tuple[int, int, int] | None, expected: Any
) -> None:
    tiles = contents.filter_tiles(np.ones(shape, np.float32), input_size)
    assert (tiles if tiles is None else tiles.shape) == expected


def test_a_filter_has_a_square_for_each_weight() -> None:
    ticket = random_ticket(network_of("Conv2Wide", width_mult=0.0625))
    entry = Entry("a", "ticket", Path("a"), ticket=ticket)
    signs = np.sign(ticket.weight(ticket.layers[0]))
    svg = parse(written([entry])).only("svg", "filters")
    counts = {
        name: svg.only("path", name).attributes["d"].count("h1v1h-1z") for name in ("plus", "minus")
    }
    assert counts == {"plus": (signs > 0).sum(), "minus": (signs < 0).sum()}
    top_left = f"M{0} {0}h1v1h-1z"
    assert (top_left in svg.only("path", "plus").attributes["d"]) == (signs[0, 0, 0, 0] > 0)


# Heat maps


def test_a_heat_map_of_corruptions() -> None:
    answer = Answer("a", 99.0, {("fog", 1): 60.0, ("fog", 5): 20.0, ("snow", 1): 95.0})
    answer.cells["jpeg_compression", 1] = 95.0
    measured = [("x", Measured(Path("x"), "", [answer]))]
    nodes = heat_maps.section(measured)
    root = parse(document(element("div", *nodes)))
    rows = root.only("table").rows()
    assert rows[0] == ["severity", "1", "5", "mean"]
    assert rows[1:] == [
        ["no corruption", "", "", "99"],
        ["snow", "95", "", "95"],
        ["fog", "60", "20", "40"],
        ["JPEG", "95", "", "95"],
        ["mean", "", "", "77"],
    ]
    assert "pale: 20 %" in root.text
    assert heat_maps.section([]) == []


def test_classifiers_beside_each_other() -> None:
    answers = [
        Answer(name, None, {("fog", 1): value}) for name, value in (("a", 50.0), ("b", 70.0))
    ]
    nodes = heat_maps.section([("x", Measured(Path("x"), "", answers))])
    together, *single = parse(document(element("div", *nodes))).all("table")
    assert together.rows()[0] == ["corruption", "a", "b"]
    assert together.rows()[2] == ["fog", "50", "70"]
    assert len(single) == 2


# Mistakes


def test_a_confusion_matrix_and_its_mistakes() -> None:
    (entry,) = read_all(DIGITS_TICKET)
    parts = sections(written([entry], predictions={"digits.mpt": predictions("cat", "dog")}))
    section = parts["mistakes"]
    matrix, confusions = section.all("table")
    assert matrix.rows() == [["", "cat", "dog"], ["cat", "7", "3"], ["dog", "", "7"]]
    assert confusions.rows()[1:] == [["cat", "dog", "3"]]
    cell = matrix.all("td")[1]
    assert cell.attributes["title"] == "3 images of cat taken for dog"
    assert "82.35 %: 14 of 17 test images" in section.text
    image = section.only("img")
    assert image.attributes["alt"] == "an image of cat"
    assert "cat, taken for dog (88\u00a0%)" in section.text


def test_many_classes_have_a_list_in_place_of_a_matrix() -> None:
    nodes = mistakes.section({"a": predictions(count=mistakes.MOST_CLASSES + 1)})
    assert not [
        node for node in nodes if node.tag == "figure" and node.find(".//table") is not None
    ]


def test_images_of_mistakes_keep_to_their_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (3, 300, 200), dtype=np.uint8)
    image = mistakes.png(noise)
    assert image.startswith(b"\x89PNG")
    assert len(image) < 15_000  # at most 64 pixels high
    monkeypatch.setattr(mistakes, "MOST_BYTES", 50_000)
    of_network = predictions()
    of_network.mistakes[:] = [Mistake(noise, 0, 1, 0.5)] * 24
    text = document(element("div", *mistakes.section({"a": of_network, "b": of_network})))
    assert len(parse(text).all("img")) > 1
    assert len(text) < 60_000


def test_the_largest_page_is_small(tmp_path: Path) -> None:
    """Eight long runs, and images that do not compress."""
    runs = [write_run(tmp_path / f"run-{i}", epochs=160, seed=i) for i in range(8)]
    entries = read_all(*runs)
    noise = np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8)
    content = random_ticket(network_of("Conv2Wide", width_mult=0.125)).to_bytes()
    of_networks = {}
    for entry in entries:
        entry.ticket, entry.size = Ticket.from_bytes(content), len(content)
        of_networks[entry.name] = predictions(count=30)
        of_networks[entry.name].mistakes[:] = [Mistake(noise, 0, 1, 0.5)] * 24
    assert len(written(entries, predictions=of_networks)) < 2_000_000


# Configuration


def test_the_configuration_and_its_command(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a run", seed=7)
    (run,) = read_all(folder)
    section = sections(written([run]))["recipe"]
    assert section.only("code").text.startswith("biprop find --config digits --arch Conv2 ")
    assert "--seed 7" in section.only("code").text
    changed, unchanged = (dict(table.rows()) for table in section.all("table"))
    assert changed == {"arch": "Conv2", "set": "digits", "prune_rate": "0.2"} | {
        "epochs": "3",
        "seed": "7",
    }
    assert unchanged["augmix"] == "off"
    assert "--data" not in section.text
    run.settings["set"] = "CIFAR10"
    assert "Pass --data too: the folder of CIFAR10." in written([run])
    run.settings["prune_rate"] = None
    command = sections(written([run]))["recipe"].only("code").text
    assert command == f"biprop find --config '{folder}/settings.txt'"


# A browser

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
PROBE = """
<script>
addEventListener("load", () => {
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
  const drawn = [...page.querySelectorAll("svg.chart")].map(svg => svg.getBoundingClientRect());
  const curve = page.querySelector(".chart .e0"), box = page.querySelector("#show-0");
  const before = getComputedStyle(curve).display;
  box.click();
  const after = getComputedStyle(curve).display;
  const part = page.querySelector("details");
  part.querySelector("summary").click();
  const texts = [...page.querySelectorAll("svg.chart text")];
  const heights = texts.map(text => text.getBoundingClientRect().height);
  const stops = page.querySelectorAll("a[href], input, summary, [tabindex='0']").length;
  document.querySelector("pre").textContent = JSON.stringify({
    overflow: root.scrollWidth - root.clientWidth, charts: drawn.length,
    smallest: Math.min(...drawn.map(box => Math.min(box.width, box.height))),
    text: Math.min(...heights), before, after, open: part.open, stops,
    back: getComputedStyle(page.body).backgroundColor,
  });
});
</script>
"""


@pytest.mark.slow
@pytest.mark.skipif(not BROWSER, reason="no chromium on the PATH")
@pytest.mark.parametrize("width", [360, 1400])
@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
def test_a_browser_shows_the_page(
    width: int, is_dark: bool, whole_page: str, tmp_path: Path
) -> None:
    frame = (
        f'<iframe srcdoc="{html.escape(whole_page)}" style="width:{width}px;height:900px;border:0">'
    )
    probe = tmp_path / "probe.html"
    probe.write_text(f"<!DOCTYPE html><meta charset=utf-8><pre></pre>{PROBE}{frame}</iframe>")
    command = [
        *(BROWSER, "--headless", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"),
        *("--window-size=1500,1000", f"--user-data-dir={tmp_path / 'profile'}"),
        *(["--blink-settings=preferredColorScheme=0"] if is_dark else []),
        *(["--no-sandbox"] if os.geteuid() == 0 else []),
        probe.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr
    measured = json.loads(html.unescape(done.stdout.split("<pre>")[1].split("</pre>")[0]))
    assert measured["overflow"] == 0
    assert measured["charts"] == 6
    assert measured["smallest"] >= 60
    assert measured["text"] >= 10  # pixels
    assert (measured["before"], measured["after"]) == ("inline", "none")
    assert measured["open"]
    assert measured["stops"] > 30
    assert measured["back"] == ("rgb(15, 19, 23)" if is_dark else "rgb(255, 255, 255)")
