"""Pictures of the proposals, after the paper's Figures 2 and 3."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from soco_core.artifacts.proposals import Proposals
from soco_core.images import ImageSet
from soco_core.storage import atomic_file

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.figure import Figure

PICTURED_IMAGES = 12
BOXES_DRAWN = 8
"""Boxes drawn of an image, picked at random for clear view, as in Figure 2."""
LONG_SIDE = 320
"""Pictured images are reduced to this."""


def draw_contact_sheet(path: Path, folder: Path, image_set: ImageSet) -> None:
    """Draw images spread evenly over the set, each with some of its proposals (Figure 2)."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    proposals = Proposals(folder)
    count = min(PICTURED_IMAGES, len(proposals))
    numbers = [round(k * (len(proposals) - 1) / max(count - 1, 1)) for k in range(count)]
    columns = min(4, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(3.2 * columns, 2.9 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, number in zip(axes, numbers, strict=False):
        name, boxes = proposals.id(number), proposals.boxes(number)
        width, height = proposals.size(number)
        axis.imshow(_reduced(image_set.read(name)), extent=(0, width, height, 0), interpolation="bilinear")
        drawn = np.random.default_rng(0).permutation(len(boxes))[:BOXES_DRAWN]
        for k, (x1, y1, x2, y2) in enumerate(boxes[np.sort(drawn)].tolist()):
            axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, linewidth=1.6, edgecolor=f"C{k}"))
        shown = name if len(name) <= 34 else f"...{name[-31:]}"
        boxes_text = f"{len(boxes)} {'box' if len(boxes) == 1 else 'boxes'}"
        step = proposals.kept_by(number)
        note = "" if step == "strict" else f" ({step})"
        axis.set_title(f"{shown}\n{boxes_text}{note}", fontsize=8, parse_math=False)
    for axis in axes:
        axis.axis("off")
    _save(figure, path)


def draw_histograms(path: Path, folder: Path) -> None:
    """Draw the number of proposals per image and their size sqrt(hw) (Figure 3)."""
    from matplotlib.figure import Figure

    proposals = Proposals(folder)
    counts = proposals.counts()
    x1, y1, x2, y2 = proposals.all_boxes().astype(np.float64).T
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    step = -(-int(counts.max()) // 40)
    left.hist(counts, bins=np.arange(0, counts.max() + step + 1, step) + 0.5 - step, color="C0")
    left.set(xlabel="proposals per image", ylabel="images", title=f"mean {counts.mean():.1f}")
    sizes = np.sqrt((x2 - x1) * (y2 - y1))
    right.hist(sizes, bins=40, color="C1")
    right.set(xlabel=r"proposal size $\sqrt{hw}$ (pixels)", ylabel="proposals", title=f"mean {sizes.mean():.0f} pixels")
    for axis in (left, right):
        axis.grid(alpha=0.3)
    _save(figure, path)


def _reduced(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    from PIL import Image

    small = Image.fromarray(image)
    small.thumbnail((LONG_SIDE, LONG_SIDE))
    return np.asarray(small)


def _save(figure: Figure, path: Path) -> None:
    with atomic_file(path) as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a file's name may be in any script
        figure.savefig(file, format="png", dpi=90, metadata={"Software": None})
