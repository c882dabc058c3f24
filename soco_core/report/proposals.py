"""What the report says of the proposals: how they were made, of which images, and what they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

SEGMENTATION = ("scale", "sigma", "min_size")
FILTER = ("max_aspect_ratio", "min_relative_size", "max_relative_size", "min_side", "fallback_min_side")


def proposal_facts(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (name, value) of all that a manifest says in numbers and words; the lists of files are left out."""
    image_set, images = manifest["image_set"], manifest["images"]
    parameters, boxes = manifest["parameters"], manifest["boxes_per_image"]
    total, good = image_set["images"], images["good"]
    return [
        *_search_facts(manifest["search"]),
        ("search parameters", _listed(parameters, _read_by_the_engine(parameters)) or "none"),
        ("filter", _listed(parameters, FILTER)),
        ("image set", image_set["root"]),
        (
            "layout",
            ": ".join([image_set["layout"], *([", ".join(image_set["splits"])] if image_set["splits"] else [])]),
        ),
        ("subset", image_set["subset"] or "all images"),
        ("images", f"{total:,}"),
        ("usable images", f"{good:,}"),
        ("unreadable images", _share(images["bad"], total)),
        ("searched on a reduced copy", _share(len(manifest["reduced_images"]), good)),
        ("boxes", f"{boxes['total']:,}"),
        (
            "boxes per image",
            f"{boxes['mean']:.1f} on average, {boxes['median']:g} median, {boxes['min']} to {boxes['max']}",
        ),
        *(
            (f"kept by the {step.replace('_', ' ')} rule", _share(count, good))
            for step, count in manifest["kept_by"].items()
        ),
    ]


def _search_facts(search: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The engine, and what else it rests on: versions of libraries, a seed, the file that was imported."""
    for name, value in search.items():
        text = _listed(value, tuple(value)) if isinstance(value, dict) else str(value)
        if text:
            yield name.replace("_", " "), text


def _read_by_the_engine(parameters: dict[str, Any]) -> tuple[str, ...]:
    if parameters["engine"] == "opencv":
        single = (*SEGMENTATION, "opencv_colours", "opencv_strategies") if parameters["opencv_mode"] == "single" else ()
        return ("opencv_mode", *single, "max_long_side")
    if parameters["engine"] == "exact":
        return (*SEGMENTATION, "exact_texture_range", "max_long_side")
    return ("random_boxes",) if parameters["engine"] == "random" else ()


def _listed(values: dict[str, Any], names: tuple[str, ...]) -> str:
    texts = ((name, values[name]) for name in names)
    return ", ".join(f"{name} {'+'.join(value) if isinstance(value, list) else value}" for name, value in texts)


def _share(count: int, total: int) -> str:
    """Write a count and its share; a small one is not rounded to nothing, nor a large one to all."""
    percent = 100 * count / total
    if count in {0, total} or 0.05 <= percent < 99.95:
        return f"{count:,} ({percent:.1f} %)"
    return f"{count:,} ({'under 0.1' if percent < 50 else 'over 99.9'} %)"
