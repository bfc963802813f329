"""The pages of biprop web: what is in them, and that they compute what the engine computes, in node
and in a real browser.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import io
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, Page, chromium
from conftest import ROOT, network_of, png, random_ticket
from own_networks import packed as packed_ticket
from pages import Element, parse
from PIL import Image
from programs import random_pixels, same
from test_cli import fails
from test_kernels import conv_program, drawn_cases

from biprop import Engine, Ticket, images, native
from biprop.cli import command_line, web
from biprop.data.digits import digits
from biprop.engine.lower import lower
from biprop.errors import UserError
from biprop.web import modules
from biprop.web.packing import SplitProgram, as_text, packed, split
from biprop.web.page import Classifier, page

PRETRAINED = ROOT / "pretrained"
DIGITS = PRETRAINED / "digits.mpt"
STUBS = {"simd": b"a module", "scalar": b"another"}
EVIL = '</script><script>alert("x")</script>'
SOURCES = ROOT / "src" / "biprop" / "web"
NODE = shutil.which("node")
HAS_MODULES = all((SOURCES / f"engine-{kind}.wasm").is_file() for kind in modules.KINDS)

needs_modules = pytest.mark.skipif(not HAS_MODULES, reason="no engine for pages: make wasm")
needs_node = pytest.mark.skipif(not NODE, reason="no node on the PATH")
needs_core = pytest.mark.skipif(not native.library(), reason="no compiled core")
in_browser = pytest.mark.skipif(not (CHROMIUM and HAS_MODULES), reason="no chromium, or no modules")


def classifier(**changes: Any) -> Classifier:
    """A network that nobody runs."""
    fields: dict[str, Any] = {
        "title": "a title",
        "program": SplitProgram(b"rest", b"", []),
        "channels": 1,
        "classes": ["cat", "dog"],
        "crop_side": 0,
        "drawing": "digits",
        "facts": [("network", "Conv2")],
    }
    return Classifier(**(fields | changes))


def by_id(root: Element) -> dict[str, Element]:
    elements = [e for e in root.all("*") if "id" in e.attributes]
    ids = [e.attributes["id"] for e in elements]
    assert len(ids) == len({*ids})
    return dict(zip(ids, elements, strict=True))


def content(element: Element) -> bytes:
    """The bytes of an element that holds data."""
    return gzip.decompress(base64.b85decode(element.text.replace("/", "<")))


# Parts of the page


@pytest.mark.parametrize("channels", [1, 3])
def test_what_the_script_looks_for_is_there(channels: int) -> None:
    parts = by_id(parse(page(classifier(channels=channels), STUBS)))
    script = (SOURCES / "page.js").read_text()
    names = {*re.findall(r'part\("([\w-]+)"\)', script)}
    only_for_grey = {"drawing", "pen", "clear", "invert"}
    assert names - {*parts} == (only_for_grey if channels == 3 else set())
    assert only_for_grey <= names


def test_a_page_has_everything_and_loads_nothing() -> None:
    program = SplitProgram(b"rest", b"planes", [(2, 3)])
    text = page(classifier(program=program), STUBS)
    parts = by_id(parse(text))
    assert content(parts["program"]) == b"rest"
    assert content(parts["planes"]) == b"planes"
    assert content(parts["engine-simd"]) == STUBS["simd"]
    assert content(parts["engine-scalar"]) == STUBS["scalar"]
    assert json.loads(parts["ticket"].text) == {
        "classes": ["cat", "dog"],
        "places": [[2, 3]],
        "cropSide": 0,
        "drawing": "digits",
    }
    assert "://" not in text
    assert not re.search(r"\b(?:src|href|action)=", text)


def test_only_our_script_may_run() -> None:
    root = parse(page(classifier(), STUBS))
    (script,) = (e for e in root.all("script") if "type" not in e.attributes)
    digest = base64.b64encode(hashlib.sha256(script.text.encode()).digest()).decode()
    metas = {m.attributes.get("http-equiv"): m.attributes.get("content") for m in root.all("meta")}
    policy = metas["Content-Security-Policy"]
    assert policy
    assert f"script-src 'sha256-{digest}' 'wasm-unsafe-eval';" in policy
    assert policy.startswith("default-src 'none';")


def test_names_are_texts() -> None:
    evil = classifier(title=EVIL, classes=[EVIL, "a\u202eb"], facts=[(EVIL, EVIL)])
    text = page(evil, STUBS)
    root = parse(text)
    assert len(root.all("script")) == len(parse(page(classifier(), STUBS)).all("script"))
    assert EVIL not in text
    assert root.only("title").text == root.only("h1").text == EVIL
    assert html.escape(EVIL) in text
    assert json.loads(by_id(root)["ticket"].text)["classes"] == [EVIL, "a\\u202eb"]


def test_every_control_has_a_name_and_waits_for_the_engine() -> None:
    root = parse(page(classifier(), STUBS))
    labels = {label.attributes.get("for") for label in root.all("label")}
    inside = {i.attributes["id"] for label in root.all("label") for i in label.all("input")}
    for control in (*root.all("input"), *root.all("button")):
        assert control.text.strip() or control.attributes["id"] in labels | inside
        assert "disabled" in control.attributes
    canvas = by_id(root)["drawing"]
    assert canvas.attributes["tabindex"] == "0"
    assert "Arrow keys" in canvas.attributes["aria-label"]


# Packing


TICKETS = {
    "digits": lambda: Ticket.load(DIGITS),
    "stored signs": lambda: random_ticket(network_of("Wide_VGG_Small_132")),
    "own network": lambda: packed_ticket("resnet")[1],
}


@pytest.mark.parametrize("name", TICKETS)
def test_a_split_program_is_the_same_but_for_signs_of_pruned_weights(name: str) -> None:
    ticket = TICKETS[name]()
    program = lower(ticket)
    parts = split(program, ticket)
    assert len(parts.rest) + len(parts.planes) == len(program)
    joined = np.frombuffer(parts.joined(), np.uint8)
    expected = np.frombuffer(program, np.uint8).copy()
    large = [layer for layer in ticket.layers if layer.mask.size >= 64]
    assert len(parts.places) == len(large) > 0
    for start, size in parts.places:
        expected[start + size :][:size] &= expected[start:][:size]
    np.testing.assert_array_equal(joined, expected)


@needs_core
def test_the_engine_computes_the_same_of_it() -> None:
    engine = Engine(DIGITS)
    pixels = np.random.default_rng(0).integers(0, 256, (5, *engine.shape), dtype=np.uint8)
    before = engine.run(pixels)
    engine._program = split(engine._program, engine.ticket).joined()
    assert engine._load() == ""
    np.testing.assert_array_equal(engine.run(pixels), before)


def test_layers_whose_planes_are_all_ones_keep_their_places() -> None:
    ticket = random_ticket(network_of("Wide_VGG_Small_132"), density=1.1)
    ticket.layers = [replace(x, signs="positive", stored=None) for x in ticket.layers]
    program = lower(ticket)
    parts = split(program, ticket)
    assert parts.joined() == program
    assert len(parts.places) == sum(layer.mask.size >= 64 for layer in ticket.layers)
    ends = [0, *(start + 2 * size for start, size in parts.places)]
    assert all(end <= start for end, (start, _) in zip(ends, parts.places, strict=False))


def test_random_planes_take_little_more_than_their_entropy() -> None:
    rng = np.random.default_rng(0)
    plane = np.packbits(rng.random(1 << 19) < 0.1).tobytes()
    entropy = -(0.1 * np.log2(0.1) + 0.9 * np.log2(0.9))
    text = packed(plane)
    assert len(text) / 5 * 4 * 8 < 1.03 * entropy * (1 << 19)
    repeated = b"a program " * 1000
    assert len(packed(repeated)) < 200
    assert "<" not in text


# The command


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules, "modules", lambda: STUBS)


@pytest.mark.usefixtures("stubs")
def test_a_ticket_becomes_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "digits.html"
    assert command_line.main(["web", str(DIGITS), "-o", str(file), "--title", "<Digits>"]) == 0
    assert re.search(rf"bytes +{file.stat().st_size:,}\n", capsys.readouterr().out)
    root = parse(file.read_text())
    parts = by_id(root)
    assert root.only("h1").text == "<Digits>"
    settings = json.loads(parts["ticket"].text)
    assert settings["classes"] == list("0123456789")
    assert (settings["drawing"], settings["cropSide"]) == ("digits", 0)
    facts = dict(root.only("table", "pairs").rows())
    assert facts["weights kept"] == "16,364 of 81,808"
    assert facts["test accuracy"] == "99.44 %, as recorded"
    ticket = Ticket.load(DIGITS)
    assert content(parts["planes"]) == split(lower(ticket), ticket).planes


@pytest.mark.usefixtures("stubs")
def test_images_are_cropped_where_those_of_the_search_were(tmp_path: Path) -> None:
    ticket = random_ticket(network_of("Conv2Wide", size=(56, 56), width_mult=0.0625))
    ticket.found = {"options": {"set": "folder", "stream": True}}
    ticket.save(tmp_path / "a.mpt")
    command_line.main(["web", str(tmp_path / "a.mpt"), "-o", str(tmp_path / "a.html")])
    settings = json.loads(by_id(parse((tmp_path / "a.html").read_text()))["ticket"].text)
    assert (settings["drawing"], settings["cropSide"]) == ("", 64)
    assert settings["classes"] == [str(i) for i in range(10)]


@pytest.mark.parametrize(
    ("options", "channels", "size", "expected"),
    [
        ({"set": "MNIST"}, 1, 28, "MNIST"),
        ({"set": "MNIST"}, 1, 32, ""),
        ({"set": "digits"}, 1, 32, "digits"),
        ({"set": ["digits"]}, 1, 32, ""),
        ({"set": "folder"}, 1, 32, ""),
        ("digits", 1, 32, ""),
    ],
)
def test_drawings_are_made_like_the_images_of_the_search(
    options: Any, channels: int, size: int, expected: str
) -> None:
    ticket = random_ticket(
        network_of("Conv2Wide", size=(size, size), channels=channels, width_mult=0.0625)
    )
    ticket.found = {"options": options}
    assert web._drawn_like(ticket) == expected


def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def error(ticket: str | Path, output: str = "a.html") -> str:
        return fails(capsys, "web", str(ticket), "-o", output)

    assert "ends with .html" in error(DIGITS, "a.htm")
    assert "is a deck, and a page runs one ticket" in error(PRETRAINED / "digits.deck")
    monkeypatch.setattr(modules, "KINDS", ("missing",))
    line = error(DIGITS)
    assert "`make wasm`" in line
    assert "apt-get install emscripten" in line
    monkeypatch.setattr(modules, "modules", lambda: STUBS)
    random_ticket(network_of("Conv2Wide", channels=2, width_mult=0.0625)).save("2.mpt")
    assert "2.mpt: takes 2 channels" in error("2.mpt")
    packed_ticket("perceptron")[1].save("inputs.mpt")
    assert "takes inputs of shape [12], not images" in error("inputs.mpt")
    Path("noise.mpt").write_bytes(b"noise")
    assert "noise.mpt" in error("noise.mpt")
    assert not Path("a.html").exists()


@needs_core
def test_what_only_numpy_computes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(DIGITS)
    monkeypatch.setattr(Engine, "compiled", False)
    engine.fallback = "a layer is too large: numpy runs this network, slowly"
    with pytest.raises(UserError, match=r"^x\.mpt: cannot run in a page: a layer is too large$"):
        web._program("x.mpt", engine)


def test_the_installation_says_whether_it_has_modules() -> None:
    if HAS_MODULES:
        assert all(module.startswith(b"\0asm") for module in modules.modules().values())
    else:
        with pytest.raises(UserError, match="make wasm"):
            modules.modules()


# Sizes


@needs_modules
@pytest.mark.parametrize(
    ("ticket", "most"),
    [("digits", 360_000), pytest.param("cifar10-best", 750_000, marks=pytest.mark.slow)],
)
def test_pages_are_small(ticket: str, most: int, tmp_path: Path) -> None:
    assert written(PRETRAINED / f"{ticket}.mpt", tmp_path).stat().st_size < most


def written(ticket: Path, folder: Path) -> Path:
    """The page of a ticket."""
    file = folder / f"{ticket.stem}.html"
    assert command_line.main(["web", str(ticket), "-o", str(file)]) == 0
    return file


# In node: the page's script without the page


def node(script: str, *arguments: Any) -> Any:
    """What a script prints, as JSON; it has the functions of engine.js and images.js."""
    sources = [(SOURCES / name).read_text() for name in ("engine.js", "images.js")]
    assert NODE
    done = subprocess.run(
        [NODE, "--input-type=commonjs", "-", *map(str, arguments)],
        input="\n".join([*sources, 'const fs = require("fs");', script]),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return json.loads(done.stdout)


def picture(width: int, height: int, channels: int) -> str:
    """An image of images.js; its pixels are in the file that is the first argument."""
    size = f"width: {width}, height: {height}, channels: {channels}"
    return f"{{ {size}, data: new Uint8Array(fs.readFileSync(process.argv[2])) }}"


def printed(expression: str) -> str:
    return f"console.log(JSON.stringify({expression}));"


@needs_node
@pytest.mark.parametrize(
    ("size", "to"),
    [
        ((50, 37), (32, 32)),
        ((8, 8), (32, 32)),
        ((32, 60), (32, 32)),
        ((5, 300), (17, 9)),
        ((20, 20), (19, 40)),
        ((400, 300), (32, 32)),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_scaled_as_by_pillow(
    size: tuple[int, int], to: tuple[int, int], channels: int, tmp_path: Path
) -> None:
    mode = images.mode_of(channels)
    shape = (size[1], size[0], 3)[: 2 if channels == 1 else 3]
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels, mode).resize(to, Image.Resampling.BILINEAR))
    (tmp_path / "pixels").write_bytes(pixels.tobytes())
    resized = f"resize({picture(*size, channels)}, {to[0]}, {to[1]})"
    assert node(printed(f"[...{resized}.data]"), tmp_path / "pixels") == expected.ravel().tolist()


@needs_node
@pytest.mark.parametrize("size", [(50, 37), (37, 50), (64, 64), (16, 300)])
def test_images_are_cropped_as_by_predict(size: tuple[int, int], tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    expected = np.asarray(images.centre_crop(Image.fromarray(pixels), 28))
    (tmp_path / "pixels").write_bytes(pixels.tobytes())
    cropped = f"asInput({picture(*size, 3)}, 28, 28, {images.side_before_crop(28)})"
    assert node(printed(f"[...{cropped}.data]"), tmp_path / "pixels") == expected.ravel().tolist()


@needs_node
def test_grey_is_that_of_pillow() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (1, 400, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(colours).convert("L"))
    rgba = np.concatenate([colours, np.full_like(colours[..., :1], 255)], 2).ravel().tolist()
    got = node(printed(f"[...fromRgba({rgba}, 400, 1, 1).data]"))
    assert got == expected.ravel().tolist()


@needs_node
def test_a_drawing_becomes_an_image_like_those_of_mnist_and_of_the_digits(tmp_path: Path) -> None:
    drawing = np.zeros((280, 280), np.uint8)
    drawing[40:240, 100:140] = 255  # a bar of 200 x 40
    drawing[200:240, 100:160] = 255
    (tmp_path / "pixels").write_bytes(drawing.tobytes())
    drawn = f"['MNIST', 'digits', ''].map((name) => asDrawn({picture(280, 280, 1)}, name))"
    script = printed(f"{drawn}.map((image) => [image.width, [...image.data]])")
    (side, mnist), (small, counts), (whole, same) = node(script, tmp_path / "pixels")
    assert (side, small, whole) == (28, 8, 280)
    image = np.array(mnist).reshape(28, 28)
    rows, columns = np.nonzero(image)
    assert np.ptp(rows) + 1 == 20
    assert np.ptp(columns) + 1 == 6
    centre = [np.average(axis + 0.5, weights=image[rows, columns]) for axis in (rows, columns)]
    np.testing.assert_allclose(centre, 14, atol=0.5)
    blocks = np.array(counts).reshape(8, 8)
    quarter, half = round(255 / 4), round(255 / 2)  # the bar covers columns 11 to 17 of 32
    assert blocks[0].tolist() == [0, 0, quarter, 255, half, 0, 0, 0]
    assert blocks[7].tolist() == [0, 0, quarter, 255, 255, quarter, 0, 0]
    assert same == drawing.ravel().tolist()


RUN = """
(async () => {
  const files = process.argv.slice(2).map((file) => new Uint8Array(fs.readFileSync(file)));
  const [module, program, pixels] = files;
  const engine = await startEngine(module, program);
  const shape = [engine.channels, engine.height, engine.width, engine.outputs];
  console.log(JSON.stringify([hasSimd(), shape, [...engine.run(pixels)]]));
})();
"""


@needs_node
@needs_modules
@needs_core
@pytest.mark.parametrize("kind", modules.KINDS)
@pytest.mark.parametrize(
    "name", ["digits", "own network", pytest.param("cifar10-1bit", marks=pytest.mark.slow)]
)
def test_the_modules_compute_what_the_engine_computes(kind: str, name: str, tmp_path: Path) -> None:
    is_file = name != "own network"
    ticket = Ticket.load(PRETRAINED / f"{name}.mpt") if is_file else packed_ticket("resnet")[1]
    engine = Engine(ticket)
    shape = (100 if name == "digits" else 10, *engine.shape)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    (tmp_path / "program").write_bytes(split(lower(ticket), ticket).joined())
    (tmp_path / "pixels").write_bytes(pixels.transpose(0, 2, 3, 1).tobytes())
    module = SOURCES / f"engine-{kind}.wasm"
    has_simd, shape_and_outputs, logits = node(
        RUN, module, tmp_path / "program", tmp_path / "pixels"
    )
    assert has_simd
    assert shape_and_outputs == [*engine.shape, engine.outputs]
    got = np.array(logits).reshape(-1, engine.outputs)
    np.testing.assert_allclose(got, engine.run(pixels), rtol=0, atol=1e-4)


GRID = """
(async () => {
  const read = (place) => new Uint8Array(fs.readFileSync(process.argv[place]));
  const [module, input] = [read(2), read(3)];
  let instance = null;
  ({ instance } = await WebAssembly.instantiate(module, systemFor(() => instance)));
  const core = instance.exports;
  core._initialize();
  let at = 0;
  const copyIn = (size) => {
    const place = core.malloc(size);
    new Uint8Array(core.memory.buffer).set(input.subarray(at, at + size), place);
    at += size;
    return place;
  };
  const results = JSON.parse(process.argv[5]).map(([programSize, imagesSize, count, outputs]) => {
    const [program, images] = [copyIn(programSize), copyIn(imagesSize)];
    const [network, logits] = [core.malloc(4), core.malloc(4 * count * outputs)];
    const isLoaded = core.biprop_load(program, programSize, 1, network) === 0;
    const [pointer] = new Int32Array(core.memory.buffer, network, 1);
    const isRun = isLoaded && core.biprop_run_f32(pointer, images, BigInt(count), 0, logits) === 0;
    if (!isRun) throw new Error("an error of biprop.h");
    return Buffer.from(core.memory.buffer.slice(logits, logits + 4 * count * outputs));
  });
  fs.writeFileSync(process.argv[4], Buffer.concat(results));
  console.log(true);
})();
"""
"""Runs programs. Arguments: module, programs and images, file for the results, their sizes."""


@pytest.mark.slow
@needs_node
@needs_modules
@pytest.mark.parametrize(("count", "cases"), [(1, 140), (65, 42)])
@pytest.mark.parametrize("kind", modules.KINDS)
def test_the_kernels_on_awkward_shapes(kind: str, count: int, cases: int, tmp_path: Path) -> None:
    """The grid of tests/test_kernels.py."""
    content, sizes, truths = b"", [], []
    for flavor, *rest in drawn_cases(cases, 1e5):
        rng = np.random.default_rng(1)
        program = conv_program(rng, flavor, *rest)
        few = random_pixels(rng, 5, program)
        pick = rng.integers(0, len(few), count)
        truth = program.truth(few)[pick].reshape(count, -1)
        code, pixels = program.code(), few[pick].tobytes()
        content += code + pixels
        sizes.append((len(code), len(pixels), count, truth.shape[1]))
        truths.append((truth, program))
    (tmp_path / "input").write_bytes(content)
    module, results = SOURCES / f"engine-{kind}.wasm", tmp_path / "results"
    assert node(GRID, module, tmp_path / "input", results, json.dumps(sizes))
    numbers = np.fromfile(results, np.float32)
    ends = np.cumsum([truth.size for truth, _ in truths])
    for got, (truth, program) in zip(np.split(numbers, ends[:-1]), truths, strict=True):
        same(got.reshape(truth.shape), truth, program.last.unit > 0, kind, program)


# In a browser


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.fixture
def digits_page(tab: Page, folder: Path) -> Iterator[Page]:
    """The page of the digits, ready; a test fails for whatever its console says."""
    tab.problems.clear()
    tab.open(written(DIGITS, folder))
    assert tab.evaluate("ready.then((started) => started.kind)") == "simd"
    yield tab
    assert tab.problems == []


@cache
def test_images(name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """100 images: test images of the digits, and random blots of colour."""
    if name == "digits":
        return digits().test.images[:100].numpy()  # type: ignore[union-attr, no-any-return]
    small = np.random.default_rng(0).integers(0, 256, (100, 6, 6, 3), dtype=np.uint8)
    large = [Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR) for image in small]
    return np.stack([np.asarray(image).transpose(2, 0, 1) for image in large])


test_images.__test__ = False  # type: ignore[attr-defined]


@pytest.mark.slow
@in_browser
@needs_core
@pytest.mark.parametrize("kind", modules.KINDS)
@pytest.mark.parametrize("name", ["digits", "cifar10-best", "cifar10-fast", "cifar10-1bit"])
def test_a_browser_gives_the_logits_of_the_engine(
    name: str, kind: str, tab: Page, folder: Path
) -> None:
    ticket = PRETRAINED / f"{name}.mpt"
    tab.problems.clear()
    tab.open(written(ticket, folder), fragment=f"#{kind}")
    assert tab.evaluate("ready.then((started) => started.kind)") == kind
    pixels = test_images(name)
    text = as_text(pixels.transpose(0, 2, 3, 1).tobytes())
    run = f"ready.then((started) => [...started.engine.run(bytesOfText({json.dumps(text)}))])"
    engine = Engine(ticket)
    got = np.array(tab.evaluate(run)).reshape(100, engine.outputs)
    np.testing.assert_allclose(got, engine.run(pixels), rtol=0, atol=1e-4)
    assert tab.problems == []


def shown(tab: Page) -> tuple[str, dict[str, float]]:
    """The class that a page shows, and the probabilities in percent."""
    tab.until("!part('result').hidden")
    rows = tab.evaluate(
        "[...document.querySelectorAll('#rows tr')]"
        ".map((row) => [...row.cells].map((cell) => cell.textContent))"
    )
    return tab.evaluate("part('class').textContent"), {
        name: float(share.removesuffix(" %")) for name, _, share in rows
    }


def predicted(file: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    """What biprop predict says of an image, in percent."""
    capsys.readouterr()
    assert command_line.main(["predict", str(DIGITS), str(file), "--json"]) == 0
    probabilities = json.loads(capsys.readouterr().out)["probabilities"]
    return {name: 100 * value for name, value in probabilities.items()}


def pictures(folder: Path) -> list[Path]:
    """The same digit in several kinds of files."""
    pixels = digits().test.images[7, 0].numpy()  # type: ignore[union-attr]
    grey = Image.fromarray(pixels)
    large = grey.resize((90, 120), Image.Resampling.BICUBIC)
    colour = Image.merge("RGB", [large, grey.resize((90, 120)), large.rotate(5)])
    clear = colour.copy()
    clear.putalpha(large.point(lambda value: 255 if value > 100 else 0))
    turned, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    large.save(turned, "JPEG", quality=95, exif=exif)
    files = {"grey.png": png(pixels), "turned.jpg": turned.getvalue()}
    for name, image in (("large.png", large), ("colour.png", colour), ("clear.png", clear)):
        stream = io.BytesIO()
        image.save(stream, "PNG")
        files[name] = stream.getvalue()
    for name, encoded in files.items():
        (folder / name).write_bytes(encoded)
    return [folder / name for name in files]


@pytest.mark.slow
@in_browser
def test_images_give_what_predict_gives(
    digits_page: Page, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, file in enumerate(pictures(tmp_path)):
        expected = predicted(file, capsys)
        digits_page.evaluate("void (part('result').hidden = true)")
        if number % 2:
            digits_page.choose("#file", file)
        else:
            digits_page.drop(file, 300, 300)
        best, shares = shown(digits_page)
        assert best == max(expected, key=lambda name: expected[name]), file
        for name, share in shares.items():
            assert share == pytest.approx(expected[name], abs=0.06), file


@pytest.mark.slow
@in_browser
def test_what_is_no_image_is_one_line(digits_page: Page, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    digits_page.drop(tmp_path / "notes.txt", 300, 300)
    digits_page.until("!part('problem').hidden")
    text = digits_page.evaluate("part('problem').textContent")
    assert text == "notes.txt cannot be read: this browser reads no such image"
    (tmp_path / "a.png").write_bytes(png(np.zeros((9, 9), np.uint8)))
    digits_page.choose("#file", tmp_path / "a.png")
    digits_page.until("part('problem').hidden")


STROKES = {
    "1": [(0.4, 0.28), (0.53, 0.14), (0.53, 0.5), (0.53, 0.86)],
    "0": [(0.5 + 0.22 * np.sin(t), 0.5 - 0.36 * np.cos(t)) for t in np.linspace(0, 2 * np.pi, 30)],
    "5": [(0.7, 0.15), (0.36, 0.15), (0.33, 0.48)]
    + [(0.48 + 0.22 * np.cos(t), 0.63 + 0.22 * np.sin(t)) for t in np.linspace(-2.2, 2.5, 16)],
}


@pytest.mark.slow
@in_browser
@pytest.mark.parametrize("digit", STROKES)
def test_a_digit_that_the_mouse_draws(digit: str, digits_page: Page) -> None:
    left, top, side = digits_page.evaluate(
        "(({ left, top, width }) => [left, top, width])(part('drawing').getBoundingClientRect())"
    )
    digits_page.drag([(left + side * x, top + side * y) for x, y in STROKES[digit]])
    digits_page.until(f"part('class').textContent === '{digit}'")
    digits_page.evaluate("part('clear').click()")
    assert digits_page.evaluate("part('result').hidden && !part('nothing').hidden")


@pytest.mark.slow
@in_browser
def test_a_digit_that_the_keyboard_draws(digits_page: Page) -> None:
    for _ in range(10):
        digits_page.key("Tab")
        if digits_page.evaluate("document.activeElement.id") == "drawing":
            break
    assert digits_page.evaluate("getComputedStyle(part('pen')).visibility") == "visible"
    for _ in range(15):
        digits_page.key("ArrowUp")
    digits_page.key(" ", " ")
    for _ in range(30):
        digits_page.key("ArrowDown")
    digits_page.key(" ", " ")
    digits_page.until("part('class').textContent === '1'")
    digits_page.key("Delete")
    digits_page.until("part('result').hidden")
    reached = set()
    for _ in range(8):
        digits_page.key("Tab")
        reached.add(digits_page.evaluate("document.activeElement.id"))
    assert {"clear", "file", "invert", "measure"} <= reached


@pytest.mark.slow
@in_browser
def test_a_photograph_of_ink_is_inverted(digits_page: Page, tmp_path: Path) -> None:
    pixels = digits().test.images[7, 0].numpy()  # type: ignore[union-attr]
    for name, values in (("light", pixels), ("dark", 255 - pixels)):
        (tmp_path / f"{name}.png").write_bytes(png(values))
    digits_page.choose("#file", tmp_path / "light.png")
    expected = shown(digits_page)
    digits_page.evaluate("part('invert').click()")
    digits_page.evaluate("void (part('result').hidden = true)")
    digits_page.choose("#file", tmp_path / "dark.png")
    assert shown(digits_page) == expected


@pytest.mark.slow
@in_browser
@pytest.mark.parametrize("width", [360, 1400])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_page_fits_its_window(width: int, dark: bool, tab: Page, folder: Path) -> None:
    ticket = Ticket.load(DIGITS)
    ticket.classes = [EVIL, "a" * 60, *ticket.classes[2:]]
    ticket.save(folder / "evil.mpt")
    tab.problems.clear()
    tab.open(written(folder / "evil.mpt", folder), width, dark)
    tab.evaluate("ready")
    (folder / "zero.png").write_bytes(png(digits().test.images[0, 0].numpy()))  # type: ignore[union-attr]
    tab.choose("#file", folder / "zero.png")
    best, _ = shown(tab)
    assert best == EVIL
    tab.evaluate("part('measure').click()")
    assert "images/s" in tab.evaluate("part('speed').textContent")
    root = "document.documentElement"
    assert tab.evaluate(f"{root}.scrollWidth - {root}.clientWidth") == 0
    back = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert back == ("rgb(15, 19, 23)" if dark else "rgb(255, 255, 255)")
    assert tab.problems == []
