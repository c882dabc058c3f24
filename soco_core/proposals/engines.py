"""What finds boxes: one engine for each value of the recipe's ``proposals.engine``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from soco_core.config import ProposalsConfig

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class Engine(Protocol):
    """Finds the boxes of one image after another; each worker process builds its own."""

    def search(self, image_id: str, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return the boxes of an image, before the paper's filter.

        The same arguments give the same boxes in every process, order and run.

        Args:
            image_id: path relative to the image set's root.
            image: uint8 RGB [H, W, 3], of any size from 1x1.

        Returns:
            float32 [N, 4], N >= 0: x1 y1 x2 y2 in pixels, inside the image.
        """
        ...


def build_engine(config: ProposalsConfig, seed: int, imported: Path | None) -> Engine:
    """Build the engine of a recipe.

    Args:
        config: names the engine and its parameters.
        seed: seed of the recipe; only `random` draws.
        imported: for `import`, what :func:`soco_core.proposals.imported.convert_boxes_file` wrote; else None.

    Raises:
        InputError: `imported` is missing or damaged.
    """
    # Each branch imports what it needs: numba and scikit-image take a second to load.
    if config.engine == "opencv":
        from soco_core.proposals.opencv import opencv_search
        from soco_core.proposals.reduction import ReducedSearch

        return ReducedSearch(lambda image: opencv_search(image, config), config.max_long_side)
    if config.engine == "exact":
        from soco_core.proposals.exact import exact_search
        from soco_core.proposals.reduction import ReducedSearch

        return ReducedSearch(
            lambda image: exact_search(
                image,
                scale=config.scale,
                sigma=config.sigma,
                min_size=config.min_size,
                texture_range=config.exact_texture_range,
            ),
            config.max_long_side,
        )
    if config.engine == "random":
        from soco_core.proposals.random_boxes import RandomBoxes

        return RandomBoxes(config, seed)
    from soco_core.proposals.imported import ImportedBoxes

    assert imported is not None, "the stage converts boxes_file first"
    return ImportedBoxes(imported)
