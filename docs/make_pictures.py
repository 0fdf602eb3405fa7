"""Make every picture that the README shows.

    python docs/make_pictures.py [RUN] [TPS_RUN] [data.data_dir=DIR …]

RUN gives all but one of them, and TPS_RUN the one of control points. Without them both are trained here, on the
embedded digits, and all takes a minute or two. Screenshots need Debian's chromium and chromium-driver, and selenium;
where they are missing the old ones stay. All others have the same bytes on one machine; a report and TensorBoard tell
times.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch; their number changes bits

import torch
from PIL import Image, ImageDraw

from stn_cli.config_distortion import DistortionConfig
from stn_cli.config_files import load_config
from stn_cli.datasets.build import build_scene
from stn_cli.datasets.digits import load_digits
from stn_cli.datasets.loader import BatchLoader
from stn_cli.drawing.pixels import to_picture
from stn_cli.drawing.sheet import lay_out
from stn_cli.randomness import named_generator
from stn_cli.training.look import look_at_images
from stn_cli.training.loop import train
from stn_cli.training.pictures import warp_picture
from stn_cli.training.restore import TrainedRun, open_trained
from stn_cli.training.run_folder import find_run
from stn_cli.training.warp_history import read_history
from stn_cli.visualize.animation import as_gif
from stn_cli.visualize.own_image import fit_image, own_frames
from stn_cli.visualize.report import look_at
from stn_cli.visualize.report_page import report_page
from stn_cli.visualize.server import start_tensorboard
from stn_cli.visualize.training_film import training_frames
from stn_cli.visualize.turning import turning_frames

DOCS = Path(__file__).resolve().parent
MOST_BYTES = 3_000_000  # of the folder
FIXED = ("runtime.device=cpu", "runtime.precision=float32", "runtime.convolutions=library", "log.evaluations=24")
NETWORK = ("train.epochs=25",)
CPU = torch.device("cpu")
KINDS = ("R", "RTS", "P", "E", "T", "TC")
SHOWN_CLASS = 4
SCREENS = {"report-wide": (1280, 900), "report-phone": (390, 844)}
PATIENCE = 60.0  # seconds that TensorBoard may take to show its pictures


def main() -> None:
    """Make the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="RUN|KEY=VALUE")
    words: list[str] = parser.parse_args().words
    settings = [word for word in words if "=" in word]
    with tempfile.TemporaryDirectory() as folder:
        given = [word for word in words if "=" not in word]
        runs = given or [trained_here(Path(folder), transform) for transform in ("affine", "tps")]
        opened = [open_trained(find_run(run), "last", ["runtime.device=cpu", *settings]) for run in runs]
        save(distortions(), "distortions")
        of_run(opened[0], Path(folder))
        if len(opened) > 1:
            save(warps(opened[1], 4), "control-points")
        screenshots(opened, settings, Path(folder))
    for file in sorted(DOCS.iterdir()):
        print(f"{file.stat().st_size / 1e3:8.0f} kB  {file.name}")
    if sum(file.stat().st_size for file in DOCS.iterdir()) > MOST_BYTES:
        sys.exit(f"docs/ is larger than {MOST_BYTES / 1e6:.0f} MB")


def save(picture: Image.Image, name: str) -> None:
    """Write a picture in few colours, white among them."""
    few = picture.convert("RGB").quantize(255, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    few.putpalette([255 if level > 250 else level for level in few.getpalette() or []])
    few.save(DOCS / f"{name}.png", optimize=True)


def trained_here(folder: Path, transform: str) -> str:
    """Train on the embedded digits and return the run.

    In few epochs, after which transformers still look at each image; after many, on 1,232 images, they warp all alike.
    """
    os.chdir(folder)  # so that screenshots show a path that is the same every time
    said = [f"model.transform={transform}", f"name=digits-{transform}"]
    for event in train(load_config("digits/r", [*said, *NETWORK, *FIXED])):
        print(event, file=sys.stderr)
    return f"runs/digits-{transform}"


def distortions() -> Image.Image:
    """Return embedded digits under every distortion."""
    source, index = load_digits(), torch.tensor([4, 2, 8, 1])
    columns = [source.test.images[index] / 255]
    for kind in KINDS:
        loader = BatchLoader(source.test, build_scene(config_of(kind), source), CPU)
        columns.append(loader.gather(index, loader.draw(index, named_generator(1, "pictures"))).images)
    tiles = [
        tuple(to_picture(images[i], 2) for images in columns) for i in range(len(index))
    ]  # sizes differ, pixels not
    return lay_out(tiles, ("original", *KINDS), None, None, 1)


def config_of(kind: str) -> DistortionConfig:
    """Return the paper's distortion of a kind."""
    return load_config(None, [f"distortion.kind={kind}"]).distortion


def of_run(trained: TrainedRun, folder: Path) -> None:
    """Make the pictures of what a run does."""
    save(warps(trained, 10), "warps")
    (DOCS / "turning.gif").write_bytes(as_gif(list(turning_frames(trained))))
    history = read_history(trained.run)
    if history is not None:
        (DOCS / "training.gif").write_bytes(as_gif(list(training_frames(trained, history))))
    else:
        print("training.gif stays as it is: the run has no history of its warps", file=sys.stderr)
    drawn_by_hand().save(folder / "my.png")
    own = fit_image(folder / "my.png", trained, invert=True)
    look = look_at_images(trained.network, own.pixels, trained.runtime)
    (DOCS / "own.gif").write_bytes(as_gif(list(own_frames(own, trained, look))))


def warps(trained: TrainedRun, count: int) -> Image.Image:
    """Return what a run does to test images of one class."""
    index = torch.nonzero(trained.test.targets == SHOWN_CLASS)[:count, 0]
    return warp_picture(trained.network, trained.test, index, trained.classes, trained.runtime)


def drawn_by_hand() -> Image.Image:
    """Return a four in ink on paper, askew."""
    paper = Image.new("RGB", (400, 300), "#f4f1e8")
    draw = ImageDraw.Draw(paper)
    for stroke in ([(150, 50), (140, 165), (265, 165)], [(245, 85), (235, 265)]):
        draw.line(stroke, fill="#1d2b6b", width=24, joint="curve")
    return paper.rotate(-40, Image.Resampling.BICUBIC, fillcolor="#f4f1e8")


def screenshots(runs: list[TrainedRun], settings: list[str], folder: Path) -> None:
    """Take pictures of a report and of TensorBoard in a browser."""
    try:
        from selenium import webdriver
    except ModuleNotFoundError:
        webdriver = None
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if webdriver is None or None in programs:
        print("screenshots stay as they are: chromium, chromium-driver or selenium is missing", file=sys.stderr)
        return
    page = folder / "report.html"
    page.write_text(report_page([look_at(run.run, settings, among=len(runs)) for run in runs]), encoding="utf-8")
    with browser(webdriver, *programs) as driver:
        for name, size in SCREENS.items():
            shoot(driver, page.as_uri(), size, DOCS / f"{name}.png", lambda: True)
        address = start_tensorboard(runs[0].run.path, 6006)
        shoot(driver, f"{address}#images", (1280, 900), DOCS / "tensorboard.png", lambda: pictures_shown(driver) > 1)


@contextmanager
def browser(webdriver: Any, program: str, its_driver: str) -> Iterator[Any]:
    """Give a Chromium without a window."""
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(its_driver))
    try:
        yield driver
    finally:
        driver.quit()


def shoot(driver: Any, address: str, size: tuple[int, int], file: Path, is_ready: Callable[[], bool]) -> None:
    """Write what a page looks like, with no more colours than such pages need."""
    metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size[0] < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    driver.get(address)
    until = time.monotonic() + PATIENCE
    while not is_ready() and time.monotonic() < until:
        time.sleep(0.2)
    time.sleep(1.0)  # what has come fades in
    driver.save_screenshot(str(file))
    with Image.open(file) as picture:
        save(picture, file.stem)


def pictures_shown(driver: Any) -> int:
    """Return how many pictures a page has loaded, inside of its components too."""
    return driver.execute_script("""
        const found = (root) => [...root.querySelectorAll("*")].reduce((sum, node) =>
            sum + (node.localName === "img" && node.complete && node.naturalWidth > 100 ? 1 : 0)
                + (node.shadowRoot ? found(node.shadowRoot) : 0), 0);
        return found(document);
    """)


if __name__ == "__main__":
    main()
