"""Pictures of the proposals, after the paper's Figures 2 and 3."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from soco_core.artifacts.proposals import Proposals
from soco_core.config import ProposalsConfig, Recipe
from soco_core.images import BadImageError, ImageSource, decode_image
from soco_core.plotting import png
from soco_core.storage import write_bytes

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PICTURED_IMAGES = 12
BOXES_DRAWN = 6
"""Boxes drawn of an image, picked at random for clear view, as in Figure 2."""
LONG_SIDE = 400
"""Pictured images are reduced to this, in pixels."""
COLOURS = ("#ff3b30", "#34c759", "#0a84ff", "#ffcc00", "#ff2dd1", "#00e5ff")
FEWEST_BARS, MOST_BARS = 10, 60
TAIL = 0.005
"""Share of the largest values that a histogram may leave out (and says so), lest a few of them squeeze all others."""
PIECE = 1_000_000


def draw_contact_sheet(path: Path, proposals: Proposals, source: ImageSource, recipe: Recipe) -> None:
    """Draw images spread evenly over the set, each with some of its proposals (Figure 2)."""
    from matplotlib.figure import Figure

    count = min(PICTURED_IMAGES, len(proposals))
    numbers = [round(k * (len(proposals) - 1) / max(count - 1, 1)) for k in range(count)]
    columns = min(4, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(max(2.6 * columns, 5.5), 2.45 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, number in zip(axes, numbers, strict=False):
        _draw_image(axis, proposals, number, source, recipe.images.max_pixels)
    drawn = f"up to {BOXES_DRAWN} of each image's proposals, at random"
    figure.suptitle(
        f"{_described(recipe.proposals)}:{' ' if columns == 4 else chr(10)}{drawn}", fontsize=10, parse_math=False
    )
    _save(figure, path)


def draw_histograms(path: Path, proposals: Proposals, config: ProposalsConfig) -> None:
    """Draw the number of proposals per image and their size sqrt(hw) in pixels (Figure 3)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_histogram(left, proposals.counts(), whole=True, colour="#4c78a8")
    left.set(xlabel="proposals per image", ylabel="images")
    _draw_histogram(right, _sizes(proposals.all_boxes()), whole=False, colour="#f58518")
    right.set(xlabel=r"proposal size $\sqrt{hw}$ (pixels)", ylabel="proposals")
    images = len(proposals)
    figure.suptitle(
        f"{_described(config)}: {images:,} {'image' if images == 1 else 'images'}", fontsize=10, parse_math=False
    )
    _save(figure, path)


def _draw_image(axis: Axes, proposals: Proposals, number: int, source: ImageSource, max_pixels: int) -> None:
    from matplotlib import patheffects
    from matplotlib.patches import Rectangle

    name, boxes = proposals.id(number), proposals.boxes(number)
    width, height = proposals.size(number)
    axis.imshow(_picture(source, name, max_pixels), extent=(0, width, height, 0), interpolation="bilinear")
    distinct = np.unique(boxes, axis=0)  # with keep_duplicates a box may stand there several times
    drawn = np.random.default_rng(number).permutation(len(distinct))[:BOXES_DRAWN]
    dark = [patheffects.withStroke(linewidth=3.0, foreground="#000000a0")]  # to be seen on any ground
    for k, (x1, y1, x2, y2) in enumerate(distinct[drawn].tolist()):
        colour = COLOURS[k % len(COLOURS)]
        axis.add_patch(
            Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, linewidth=1.6, edgecolor=colour, path_effects=dark)
        )
    # A box along the image's edge is drawn whole.
    axis.set(xlim=(-0.01 * width, 1.01 * width), ylim=(1.01 * height, -0.01 * height))
    shown = name if len(name) <= 34 else f"...{name[-31:]}"
    boxes_text = f"{len(boxes)} {'proposal' if len(boxes) == 1 else 'proposals'}"
    if len(distinct) < len(boxes):
        boxes_text += f", {len(distinct)} distinct"
    step = proposals.kept_by(number)
    note = "" if step == "strict" else f" (kept by {step})"
    axis.set_title(f"{shown}\n{boxes_text}{note}", fontsize=8, parse_math=False)


def _draw_histogram(axis: Axes, values: npt.NDArray[Any], whole: bool, colour: str) -> None:
    """Draw a histogram with its mean and median; values that are `whole` numbers get bars around them."""
    from matplotlib.ticker import MaxNLocator

    lowest, most = float(values.min()), float(values.max())
    usual = float(np.quantile(values, 1 - TAIL, method="lower"))
    if most > 1.5 * usual:
        most = usual
    bars = min(max(FEWEST_BARS, round(len(values) ** 0.5)), MOST_BARS)
    step = max((most - lowest) / bars, 1e-6)
    if whole:
        step = max(1, round(step))
        lowest -= 0.5
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    edges = lowest + step * np.arange(int((most - lowest) / step) + 2)
    axis.hist(values, bins=edges.tolist(), color=colour)
    mean, median = float(values.mean(dtype=np.float64)), float(np.median(values))
    axis.axvline(mean, color="black", linewidth=1.4, label=f"mean {mean:.1f}")
    axis.axvline(median, color="black", linewidth=1.4, linestyle="--", label=f"median {median:.1f}")
    beyond = int(np.count_nonzero(values > edges[-1]))
    if beyond:
        axis.plot([], [], " ", label=f"{beyond:,} beyond, up to {values.max():.0f}")
    axis.legend(fontsize=8, loc="upper right", edgecolor="none")
    axis.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axis.margins(x=0.01)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", alpha=0.3)
    axis.set_axisbelow(True)


def _sizes(boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return sqrt(hw) of boxes [N, 4]; in pieces, since all of them may be millions."""
    sizes = np.empty(len(boxes), np.float32)
    for first in range(0, len(boxes), PIECE):
        x1, y1, x2, y2 = boxes[first : first + PIECE].T
        sizes[first : first + PIECE] = np.sqrt((x2 - x1) * (y2 - y1))
    return sizes


def _described(config: ProposalsConfig) -> str:
    parameters = f"scale {config.scale}, sigma {config.sigma:g}, min_size {config.min_size}"
    if config.engine == "exact":
        return f"Selective search (exact, {parameters})"
    if config.engine == "random":
        return f"Random boxes ({config.random_boxes} drawn an image)"
    if config.engine == "import":
        return f"Boxes of {Path(config.boxes_file).name}"
    if config.opencv_mode != "single":
        return f"Selective search (OpenCV, mode {config.opencv_mode})"
    colours = "+".join(config.opencv_colours).upper()
    strategies = f"{config.opencv_strategies} strategies, " if config.opencv_strategies > 1 else ""
    return f"Selective search (OpenCV, {colours}, {strategies}{parameters})"


def _picture(source: ImageSource, name: str, max_pixels: int) -> npt.NDArray[np.uint8]:
    from PIL import Image

    try:
        image = Image.fromarray(decode_image(source.read_bytes(name), max_pixels))
    except BadImageError:  # gone since it was searched; that is no reason to lose the result
        image = Image.new("RGB", (1, 1), (128, 128, 128))
    image.thumbnail((LONG_SIDE, LONG_SIDE))
    return np.asarray(image)


def _save(figure: Figure, path: Path) -> None:
    write_bytes(path, png(figure, 110))
