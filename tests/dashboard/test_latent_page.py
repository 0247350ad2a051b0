"""The page of latent spaces in a browser: what it shows is what torch computes."""

import base64
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
from playwright.sync_api import expect

from tests.conftest import start
from tests.dashboard.browsers import Watched, dashboard, watch
from tests.dashboard.records import make_run
from tests.dashboard.test_explorer import CHAINS, SHAPE, build
from vae_exp import load_run
from vae_exp.dashboard.explorer.bundle import _describe_layers, pack_arrays
from vae_exp.dashboard.explorer.layers import TOLERANCE, decoder_layers
from vae_exp.dashboard.web.export import export
from vae_exp.runs.trained_run import TrainedRun

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
TIMEOUT = 60_000  # milliseconds
GREY_LEVEL = 1 / 255
RUNS = {
    "plane": ["model.latent_dim=2"],
    "units": ["model.latent_dim=8", "trainer.epochs=20"],
    "classes": ["model=conditional", "model.latent_dim=4"],
    "codes": ["model=vq", "loss=vq"],
    "conv": ["model=conv", "model.latent_dim=3", "model.hidden_dims=[4,8]"],
    "resnet": ["model=resnet", "model.latent_dim=4"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of short runs on the digits, by name."""
    folder = tmp_path_factory.mktemp("latent")
    for name, overrides in RUNS.items():
        shared = ["data=digits", "trainer.epochs=5", "tracker=none", "evaluator=null", f"hydra.run.dir={name}"]
        started = start("train", *shared, *overrides, cwd=folder)
        out, err = started.communicate(timeout=120)
        assert started.returncode == 0, out + err
    return folder


@contextmanager
def shown(watched: Watched, runs: Path, *names: str, exported: bool = False, **state: str) -> Iterator[Any]:
    """The page of these runs, once the first is drawn; nothing may be requested elsewhere or complained of."""
    paths = [runs / name for name in names]
    page = watched.page
    if exported:
        file = runs / f"{'-'.join(names)}.html"
        if not file.exists():
            named = f"run=[{','.join(map(str, paths))}]"
            started = start("explore", named, f"output={file}", cwd=runs)
            out, err = started.communicate(timeout=120)
            assert started.returncode == 0, out + err
    served = dashboard(paths, *(f"--explore={path}" for path in paths))
    with nullcontext(file.as_uri()) if exported else served as address:
        fragment = "&".join(f"{key}={value}" for key, value in {"page": "latent", **state}.items())
        page.goto(f"{address}#{fragment}")
        page.locator(".pair canvas[data-latents]").first.wait_for(timeout=TIMEOUT)
        yield page
        assert watched.complaints == []
        assert all(request.startswith((address.split("#")[0], "blob:", "data:")) for request in watched.requests)


def decoded(page: Any, view: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """The latents that a view has decoded, and the grey values of its canvas in [0, 1]."""
    page.wait_for_timeout(400)
    script = """(view) => {
      const canvas = document.querySelectorAll('.pair')[view].firstChild;
      const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
      return [canvas.dataset.latents, canvas.height, [...data].filter((_, index) => index % 4 === 0)];
    }"""
    latents, height, values = page.evaluate(script, view)
    return torch.tensor([float(x) for x in latents.split(",")]), np.array(values).reshape(height, -1) / 255


def check(page: Any, run: TrainedRun, view: int = 0, label: int | None = None) -> torch.Tensor:
    """Compare a view with torch's decode of the same latents."""
    latents, values = decoded(page, view)
    with torch.no_grad():
        mean = run.vae.decode(latents[None], None if label is None else torch.tensor([label])).mean[0, 0]
    assert np.abs(values - mean.clamp(0, 1).numpy()).mean() < GREY_LEVEL
    return latents


@pytest.mark.parametrize("exported", [False, True], ids=["served", "exported"])
def test_the_pointer_decodes_what_is_under_it(watched, runs, exported):
    run = load_run(runs / "plane")
    with shown(watched, runs, "plane", exported=exported) as page:
        plane = page.locator("canvas.plane")
        plane.scroll_into_view_if_needed()
        box = plane.bounding_box()
        at_start = check(page, run)
        seen = [decoded(page)[1]]
        of_image = page.locator(".latent-pictures").inner_text()
        assert of_image.startswith("Image 1 of")
        original = page.get_by_label("Original image")
        expect(original).to_be_visible()
        for x, y in ((0.3, 0.3), (0.7, 0.4), (0.4, 0.8)):
            page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
            latents = check(page, run)
            assert torch.sign(latents).tolist() == [np.sign(x - 0.5), np.sign(0.5 - y)]
            seen.append(decoded(page)[1])
            coordinates = ", ".join(f"{value:.2f}".replace("-", "−") for value in latents.tolist())
            assert page.locator(".latent-pictures").inner_text() == f"z = ({coordinates})"
            expect(original).to_be_hidden()
        assert all(np.abs(a - b).max() > 0.02 for a, b in pairwise(seen))
        page.mouse.move(5, 5)
        assert torch.equal(check(page, run), at_start)
        assert page.locator(".latent-pictures").inner_text() == of_image
        expect(original).to_be_visible()
        page.mouse.click(box["x"] + 0.3 * box["width"], box["y"] + 0.3 * box["height"])
        page.mouse.move(5, 5)
        chosen = check(page, run)
        assert not torch.equal(chosen, at_start)
        assert "z=" in page.url
        page.reload()
        page.locator(".pair canvas[data-latents]").first.wait_for(timeout=TIMEOUT)
        torch.testing.assert_close(check(page, run), chosen, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("exported", [False, True], ids=["served", "exported"])
def test_an_image_a_slider_and_the_keyboard_choose_latents(watched, runs, exported):
    run = load_run(runs / "units")
    batch = run.images("val").batch(slice(0, 10)).images
    with shown(watched, runs, "units", exported=exported) as page:
        page.get_by_role("button", name="Image 4 of class").click()
        latents, values = decoded(page)
        torch.testing.assert_close(latents, run.vae.encode(batch).mean[3], atol=1e-4, rtol=1e-4)
        assert np.abs(values - run.vae.reconstruct(batch)[3, 0].numpy()).mean() < GREY_LEVEL
        expect(page.get_by_text("Image 4 of")).to_be_visible()
        marked = page.locator(".thumb[aria-pressed=true]")
        expect(marked).to_have_attribute("data-image", "3")
        expect(page.locator("#status")).to_have_text("no run with a W&B file, 1 run to explore")
        expect(page.get_by_text("−ELBO")).to_be_visible()
        rates = [float(text) for text in page.locator("td.rate").all_inner_texts()]
        assert rates == sorted(rates, reverse=True)
        unit = page.locator(".sliders tbody tr th").first.inner_text()
        slider = page.get_by_label(unit, exact=True)
        slider.focus()
        for _ in range(40):
            page.keyboard.press("ArrowRight")
        moved = check(page, run)
        changed = torch.nonzero((moved - latents).abs() > 0.01).flatten().tolist()
        assert changed == [int(unit.removeprefix("z")) - 1]
        page.locator("canvas.plane").focus()
        page.keyboard.press("Shift+ArrowUp")
        assert not torch.equal(check(page, run), moved)
        page.locator('[data-image="4"]').click()
        expect(marked).to_have_attribute("data-image", "4")
        page.get_by_role("button", name="Random").click()
        check(page, run)
        expect(marked).to_have_count(0)
        page.get_by_label("Across").select_option("2")
        page.locator("canvas.plane").click(position={"x": 30, "y": 40})
        assert check(page, run)[2] < 0
        with page.expect_download() as download:
            page.get_by_role("button", name="PNG").click()
        assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")


def test_whole_rows_of_images_are_seen(watched, runs):
    with shown(watched, runs, "units") as page:
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 844})
            bottom = (box := page.locator(".thumbs").bounding_box())["y"] + box["height"]
            rows = {image.bounding_box()["y"] for image in page.locator(".thumb").all()}
            height = page.locator(".thumb").first.bounding_box()["height"]
            assert len([top for top in rows if top + height <= bottom + 0.1]) == 2
            assert not [top for top in rows if top < bottom < top + height - 0.1]


def test_the_page_says_which_units_are_grey(watched, runs):
    with shown(watched, runs, "units") as page:
        assert page.locator("tr.dead").count() == 0
        assert page.get_by_text("Grey:").count() == 0
        script = """async () => {
          const serve = served.bundle;
          served.bundle = async (key) => ({ ...await serve(key), unit_rates: [3, 2, 0.0104, 0.0098, 1, 1, 1, 1] });
          applyTheme("dark");
        }"""
        page.evaluate(script)
        grey = page.get_by_text("Grey: rate below 0.01 nats")
        expect(grey).to_be_visible()
        assert page.locator("tr.dead td.rate").all_inner_texts() == ["0.0098"]
        assert "0.0104" in page.locator("tr:not(.dead) td.rate").all_inner_texts()


def test_sliders_follow_the_pointer_and_nothing_moves_under_it(watched, runs):
    with shown(watched, runs, "units") as page:
        page.set_viewport_size({"width": 500, "height": 900})  # the caption is above the plane
        plane, values = page.locator("canvas.plane"), page.locator(".sliders output")
        plane.scroll_into_view_if_needed()
        box, at_start = plane.bounding_box(), values.all_inner_texts()
        page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.3 * box["height"])
        latents = decoded(page)[0].tolist()
        units = [int(text.removeprefix("z")) - 1 for text in page.locator(".sliders tbody th").all_inner_texts()]
        assert values.all_inner_texts() == [f"{latents[unit]:.2f}".replace("-", "−") for unit in units]
        assert plane.bounding_box() == box
        page.mouse.move(5, 5)
        assert values.all_inner_texts() == at_start


def test_an_interpolation_runs_along_the_line_between_two_images(watched, runs):
    run = load_run(runs / "units")
    batch = run.images("val").batch(slice(0, 10))
    means, labels = run.vae.encode(batch.images).mean, batch.labels.tolist()
    script = """() => [...document.querySelectorAll('.interpolation canvas')].map((canvas) => {
      const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
      return [...data].filter((_, index) => index % 4 === 0);
    })"""
    with shown(watched, runs, "units") as page:
        for way in ("drag", "keyboard", "random"):
            if way == "drag":
                page.locator('[data-image="2"]').drag_to(page.locator('[data-image="7"]'))
            else:
                if way == "random":
                    page.get_by_role("button", name="Random").press("Enter")
                else:
                    page.locator('[data-image="7"]').press("Enter")
                page.get_by_role("button", name="Interpolate").press("Enter")
                page.locator('[data-image="2"]').press("Enter")
            page.wait_for_timeout(400)
            values = np.array(page.evaluate(script)) / 255
            start, end = (2, 7) if way == "drag" else (7, 2)
            first, last = (decoded(page)[0] if way == "random" else means[start]), means[end]
            line = torch.stack([torch.lerp(first, last, share) for share in torch.linspace(0, 1, len(values))])
            expected = run.vae.decode(line).mean.flatten(1).numpy()
            assert len(values) == 9
            assert np.abs(values - expected).mean() < GREY_LEVEL
            caption = page.locator(".interpolation + figcaption").inner_text()
            named = "z = (" if way == "random" else f"Image {start + 1} of class {labels[start]} to"
            assert caption.startswith(named)
            assert f" to image {end + 1} of class {labels[end]}, " in caption
            for width in (1280, 390):
                page.set_viewport_size({"width": width, "height": 844})
                boxes = [canvas.bounding_box() for canvas in page.locator(".interpolation canvas").all()]
                assert all(box["x"] >= 0 and box["x"] + box["width"] <= width for box in boxes)
                clipped = "element => element.scrollWidth > element.clientWidth"
                assert not page.locator(".interpolation").evaluate(clipped)


def test_two_runs_stand_side_by_side_on_one_image(watched, runs):
    plane, conv = load_run(runs / "plane"), load_run(runs / "conv")
    with shown(watched, runs, "plane", "conv", other="directory:2") as page:
        page.locator('[data-image="5"]').click()
        images = plane.images("val").batch(slice(5, 6)).images
        for view, run in enumerate((plane, conv)):
            latents = check(page, run, view)
            torch.testing.assert_close(latents, run.vae.encode(images).mean[0], atol=1e-4, rtol=1e-4)


def test_the_class_of_a_conditional_model_is_switched(watched, runs):
    run = load_run(runs / "classes")
    with shown(watched, runs, "classes") as page:
        before = decoded(page)[1]
        page.locator("section[data-run] label select").first.select_option("8")
        check(page, run, label=8)
        assert np.abs(decoded(page)[1] - before).max() > 0.01


def test_codes_are_exchanged_on_a_grid(watched, runs):
    run = load_run(runs / "codes")
    with shown(watched, runs, "codes") as page:
        before = check(page, run)
        page.get_by_role("button", name="Row 2, column 1").click()
        page.get_by_role("button", name="Entry 3", exact=True).click()
        after = check(page, run).reshape(4, -1)
        changed = torch.nonzero((after != before.reshape(4, -1)).any(dim=1)).flatten().tolist()
        assert changed == [2]
        torch.testing.assert_close(after[2], run.vae.encoder.codebook[3], atol=1e-6, rtol=1e-6)


def test_the_server_decodes_what_the_page_cannot(watched, runs):
    run = load_run(runs / "resnet")
    with shown(watched, runs, "resnet") as page:
        expect(page.get_by_text("decoded by the server")).to_be_visible()
        page.locator("canvas.plane").click(position={"x": 100, "y": 100})
        check(page, run)
        times = page.evaluate("""async () => {
          const times = [];
          const { version } = await source.bundle('directory:1');
          for (let i = 0; i < 20; i++) {
            const start = performance.now();
            await source.decode('directory:1', version, new Float32Array([i / 10, 0, 0, 0]), 0);
            times.push(performance.now() - start);
          }
          return times;
        }""")
        assert median(times) <= 100


def test_a_decoder_of_500_hidden_units_decodes_within_a_frame(watched, tmp_path):
    images = np.random.default_rng(0).random((300, 28, 28), dtype=np.float32)
    np.savez(tmp_path / "images.npz", images=images)
    data = ["data=arrays", "data.path=images.npz", "data.validation_size=50"]
    options = ["trainer.epochs=1", "tracker=none", "evaluator=null", "hydra.run.dir=run"]
    started = start("train", *data, *options, "model.latent_dim=2", "model.hidden_dims=[500]", cwd=tmp_path)
    out, err = started.communicate(timeout=120)
    assert started.returncode == 0, out + err
    with shown(watched, tmp_path, "run") as page:
        times = page.evaluate("""() => {
          const plane = document.querySelector('canvas.plane');
          const box = plane.getBoundingClientRect();
          return Array.from({ length: 200 }, (_, i) => {
            const start = performance.now();
            const clientX = box.left + ((i % 20) + 0.5) * box.width / 20;
            const clientY = box.top + (Math.floor(i / 20) + 0.5) * box.height / 10;
            plane.dispatchEvent(new PointerEvent('pointermove', { pointerType: 'mouse', clientX, clientY }));
            return performance.now() - start;
          });
        }""")
        print(f"median {median(times):.2f} ms, most {max(times):.2f} ms")
        assert median(times) <= 16


def test_a_finger_moves_the_point_on_a_phone(browser, runs):
    run = load_run(runs / "plane")
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, color_scheme="dark")
    watched = watch(context.new_page())
    with shown(watched, runs, "plane") as page:
        before = check(page, run)
        plane = page.locator("canvas.plane")
        plane.scroll_into_view_if_needed()
        box = plane.bounding_box()
        page.touchscreen.tap(box["x"] + 0.2 * box["width"], box["y"] + 0.7 * box["height"])
        latents = check(page, run)
        assert not torch.equal(latents, before)
        assert latents[0] < 0
        assert latents[1] < 0
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    context.close()


def test_nothing_is_cut_at_400_percent(browser, runs):
    context = browser.new_context(viewport={"width": 320, "height": 200})
    with shown(watch(context.new_page()), runs, "units") as page:
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    context.close()


def test_a_run_that_cannot_be_opened_is_asked_for_once(watched, tmp_path):
    script = """async () => {
      let count = 0;
      served.explorable = async () => [{ key: 'one', name: 'one' }];
      served.bundle = async () => { count += 1; throw new Error('damaged'); };
      setState({ page: 'latent' });
      for (let change = 0; change < 3; change += 1) {
        await new Promise((done) => setTimeout(done, 300));
        await refreshPage();
      }
      return [count, document.querySelector('main p').textContent];
    }"""
    with dashboard([tmp_path]) as address:
        watched.page.goto(address)
        assert watched.page.evaluate(script) == [1, "one: damaged"]


def test_a_file_opens_at_its_latent_space_and_an_export_at_its_runs(watched, runs, tmp_path):
    page = watched.page
    with shown(watched, runs, "plane", exported=True):
        page.goto("about:blank")
    page.goto((runs / "plane.html").as_uri())
    current = page.locator("nav a[aria-current=page]")
    expect(current).to_have_text("Latent space")
    page.locator(".pair canvas[data-latents]").first.wait_for(timeout=TIMEOUT)
    page.get_by_role("link", name="Runs").click()
    expect(current).to_have_text("Runs")
    page.go_back()
    expect(current).to_have_text("Latent space")
    make_run(tmp_path, "one", {"seed": 0}, [{"val/elbo": -1.0}])
    export([tmp_path], tmp_path / "page.html", private=False, max_megabytes=50)
    page.goto((tmp_path / "page.html").as_uri())
    expect(current).to_have_text("Runs")
    page.get_by_role("link", name="Latent space").click()
    expect(page.locator("main p").first).to_contain_text("--explore RUN --export")


def test_labels_stay_out_on_request(watched, runs):
    file = runs / "unlabelled.html"
    started = start("explore", "units", f"output={file}", "labels=false", cwd=runs)
    out, err = started.communicate(timeout=120)
    assert started.returncode == 0, out + err
    page = watched.page
    page.goto(f"{file.as_uri()}#page=latent")
    page.locator(".pair canvas[data-latents]").first.wait_for(timeout=TIMEOUT)
    expect(page.locator(".legend .label")).to_have_count(0)
    expect(page.get_by_text("Image 1:")).to_be_visible()


def packed(
    images: int, classes: int = 0, latent_dim: int = 2, epoch: int = 1, decoder: list[Any] | None = None
) -> str:
    """A bundle in base64: in epoch 1 image i has the code (i, …, i); its label is i."""
    codes = epoch * np.repeat(np.arange(images, dtype=np.float32)[:, None], latent_dim, axis=1)
    arrays = {"prior": np.zeros((1, latent_dim), np.float16)}
    if images:
        arrays |= {"pixels": np.zeros((images, 1, 1, 1), np.uint8), "image_codes": codes, "codes": codes}
        arrays |= {"centre": codes[0], "directions": np.eye(2, latent_dim, dtype=np.float32)}
        arrays |= {name: np.ones(images, np.float32) for name in ("elbo", "rate", "distortion")}
        arrays["labels"] = np.arange(images, dtype=np.int32)
    header = {"checkpoint": "last", "epoch": epoch, "version": str(epoch), "split": "val", "image_shape": [1] * 3}
    header |= {"latent_dim": latent_dim, "classes": classes, "decoder": decoder, "codebook": None}
    return base64.b64encode(pack_arrays(header, arrays)).decode()


@contextmanager
def served(watched: Watched, root: Path, bundles: dict[str, str], **state: str) -> Iterator[Any]:
    """The page of these bundles, once the first is drawn; `MOVE` moves the point of a view by a key."""
    page = watched.page
    with dashboard([root]) as address:
        page.goto(address)
        page.evaluate(SERVE, bundles)
        page.evaluate("(state) => setState({ page: 'latent', ...state })", state)
        page.locator(".pair canvas[data-latents]").first.wait_for(timeout=TIMEOUT)
        page.wait_for_timeout(400)
        yield page
    assert watched.complaints == []


def test_the_page_computes_every_layer_as_torch_does(watched, tmp_path):
    """With weights as large as those of trained decoders."""
    script = """([text, latents, label]) => {
      const bundle = unpackBundle(fromBase64(text).buffer);
      return [...decodeHere(bundle, Float32Array.from(latents), label)];
    }"""
    with dashboard([tmp_path]) as address:
        watched.page.goto(address)
        for overrides in CHAINS:
            vae, arrays = build(overrides), {}
            decoder = _describe_layers(decoder_layers(vae, SHAPE), arrays)
            header = {"image_shape": SHAPE, "classes": 3 if vae.needs_labels else 0, "decoder": decoder}
            text = base64.b64encode(pack_arrays(header, arrays)).decode()
            latents = torch.randn(1, *vae.prior().event_shape, generator=torch.Generator().manual_seed(7))
            values = watched.page.evaluate(script, [text, latents.flatten().tolist(), 2])
            expected = vae.decode(latents, torch.tensor([2]) if vae.needs_labels else None).mean
            error = (torch.tensor(values).clamp(0, 1) - expected.flatten().clamp(0, 1)).abs().max()
            assert error <= TOLERANCE, overrides
    assert watched.complaints == []


SERVE = """(bundles) => {
  window.keys = Object.keys(bundles);
  served.explorable = async () => window.keys.map((key) => ({ key, name: key }));
  served.bundle = async (key) => unpackBundle(fromBase64(bundles[key]).buffer);
  served.decode = async () => Uint8Array.of(0);
}"""
MOVE = """(view) => document.querySelectorAll('canvas.plane')[view]
  .dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowRight' }))"""
LATENTS = "() => [...document.querySelectorAll('.pair')].map((pair) => pair.firstChild.dataset.latents)"
GROW = "async () => { await refreshPage(); }"


def rounded(page: Any) -> list[list[float]]:
    """The latents that the views show."""
    return [[round(float(value), 2) for value in latents.split(",")] for latents in page.evaluate(LATENTS)]


def test_what_was_moved_stays_while_runs_grow_and_others_appear(watched, tmp_path):
    """Also before the address has it, and in the second view, which the address never has."""
    bundle = packed(3, decoder=[])
    with served(watched, tmp_path, {"one": bundle, "two": bundle}, other="two", image="1") as page:
        assert rounded(page) == [[1, 1], [1, 1]]
        page.evaluate(f"async () => {{ ({MOVE})(0); await refreshPage(); }}")
        assert rounded(page) == [[1.1, 1], [1, 1]]
        page.wait_for_timeout(400)
        assert "z=1.1%2C1" in page.url
        page.evaluate(MOVE, 1)
        page.evaluate(GROW)
        assert rounded(page) == [[1.1, 1], [1.1, 1]]
        page.locator('[data-image="2"]').click()
        page.evaluate(MOVE, 1)
        page.wait_for_timeout(400)
        page.evaluate(GROW)
        assert rounded(page) == [[2, 2], [2.1, 2]]
        page.evaluate("() => { window.keys.push('three'); window.before = document.querySelector('.pair'); }")
        page.evaluate("() => { const now = performance.now(); performance.now = () => now + 20_000; }")
        page.evaluate(GROW)
        expect(page.locator(".of-runs select").first.locator("option")).to_have_count(3)
        assert page.evaluate("() => window.before.isConnected")
        assert rounded(page) == [[2, 2], [2.1, 2]]
        page.evaluate("() => { setState({ image: '0' }); }")
        expect(page.locator('[data-image="0"]')).to_have_attribute("aria-pressed", "true")
        assert rounded(page) == [[0, 0], [0, 0]]


def test_a_later_checkpoint_on_the_server_is_opened_and_the_latents_stay(watched, tmp_path):
    """Where the server decodes: codes and images are of one checkpoint."""
    script = """(later) => {
      window.decoded = [];
      served.bundle = async () => unpackBundle(fromBase64(later).buffer);
      served.decode = async (key, version) => {
        window.decoded.push(version);
        if (version !== '2') throw Object.assign(new Error('a newer checkpoint'), { status: 409 });
        return Uint8Array.of(100);
      };
    }"""
    with served(watched, tmp_path, {"one": packed(3)}, image="1") as page:
        expect(page.get_by_text("epoch 1 (last)")).to_be_visible()
        page.evaluate(script, packed(3, epoch=2))
        page.evaluate(MOVE, 0)
        expect(page.get_by_text("epoch 2 (last)")).to_be_visible()
        expect(page.locator(".pair canvas[data-latents]")).to_have_count(1)
        assert rounded(page) == [[1.1, 1]]
        assert page.evaluate("() => window.decoded") == ["1", "2"]
        page.locator('[data-image="2"]').click()
        page.wait_for_timeout(400)
        assert rounded(page) == [[4, 4]]


def test_the_class_in_the_address_stays_and_scores_are_those_of_the_class(watched, tmp_path):
    with served(watched, tmp_path, {"one": packed(3, classes=9, decoder=[])}, image="1", label="8") as page:
        chosen, caption = page.locator("section[data-run] select").first, page.locator(".latent-pictures p").first
        expect(chosen).to_have_value("8")
        expect(caption).to_have_text("Image 2 of class 1, decoded as class 8. Right the original.")
        assert "label=8" in page.url
        chosen.select_option("1")
        expect(caption).to_contain_text("Image 2 of class 1: −ELBO")
        page.locator('[data-image="2"]').click()
        expect(chosen).to_have_value("2")


def test_a_second_run_of_fewer_images_or_none_says_so(watched, tmp_path):
    bundles = {"one": packed(3, latent_dim=3, decoder=[])}
    bundles |= {"fewer": packed(2, latent_dim=3, decoder=[]), "none": packed(0, latent_dim=3, decoder=[])}
    with served(watched, tmp_path, bundles, other="fewer", plane="pc", image="1") as page:
        second = page.locator("section[data-run] .latent-pictures p.quiet").nth(1)
        page.locator('[data-image="2"]').click()
        expect(second).to_have_text(re.compile("^Image 2 of class 1: .* This run has no image 3.$"))
        assert rounded(page) == [[2, 2, 2], [1, 1, 1]]
        page.get_by_role("button", name="Interpolate").click()
        page.locator('[data-image="2"]').click()
        expect(page.locator(".interpolation")).to_have_count(1)
        page.wait_for_timeout(400)
        page.evaluate("() => setState({ other: 'none' })")
        expect(second).to_have_text("z = (0.00, 0.00, 0.00) This run has no image 3.")
        expect(page.get_by_text("Across: z1; up: z2")).to_be_visible()
        page.locator('[data-image="1"]').click()
        expect(second).to_contain_text("This run has no image 2.")
        page.evaluate(MOVE, 1)
        assert rounded(page) == [[1, 1, 1], [0.1, 0, 0]]
