"""Each layout of others' releases, made here as its keys are, and the same with something wrong."""

from __future__ import annotations

import pickle
import re
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from soco_core.benchmarks.paper import paper_rows
from soco_core.benchmarks.table import BENCHMARKS
from soco_core.config import ModelConfig
from soco_core.convert.importing import import_weights
from soco_core.convert.layouts import LAYOUTS
from soco_core.errors import InputError
from soco_core.models.soco import OnlineNetwork

Tensors = dict[str, torch.Tensor]
MODEL = ModelConfig(
    backbone="resnet18", fpn_channels=16, head_convs=2, head_fc_size=32, hidden_size=24, embedding_size=8
)
CHILDREN = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}


def constants(shapes: dict[str, torch.Size]) -> Tensors:
    """Another number in each tensor, which takes no memory."""
    return {key: torch.tensor(float(i)).expand(shape) for i, (key, shape) in enumerate(shapes.items())}


with torch.device("meta"):
    SHAPES = {key: value.shape for key, value in OnlineNetwork(MODEL).state_dict().items()}
ONLINE = constants(SHAPES)
RESNET = {key.removeprefix("encoder."): value for key, value in ONLINE.items() if key.startswith("encoder.")}
CLASSIFIER = {"fc.weight": torch.zeros(10, 512), "fc.bias": torch.zeros(10)}
MLP = {f"fc.{i}.{name}": torch.zeros(shape) for i in (0, 2) for name, shape in (("weight", (8, 8)), ("bias", (8,)))}
CONV = torch.zeros(24, 8, 1, 1)


def under(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + key: value for key, value in tensors.items()}


def numbered(tensors: Tensors) -> Tensors:
    return {re.sub(r"^\w+", lambda found: CHILDREN[found[0]], key): value for key, value in tensors.items()}


def linear(prefix: str, value: torch.Tensor | None = None) -> Tensors:
    return {f"{prefix}.weight": torch.zeros(8, 8) if value is None else value, f"{prefix}.bias": torch.zeros(8)}


def detectron2(tensors: Tensors) -> Tensors:
    named = {}
    for key, value in tensors.items():
        name = re.sub(r"bn(\d)", r"conv\1.norm", key)
        name = re.sub(r"layer(\d)", lambda found: f"res{int(found[1]) + 1}", name)
        name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
        if not key.endswith("num_batches_tracked"):
            named[name if name.startswith("res") else f"stem.{name}"] = value
    return named


OWN = {key: value for key, value in ONLINE.items() if not key.startswith(("projector.", "predictor."))}
MOMENTUM = {key.replace(".", "_k.", 1): value for key, value in OWN.items()}
AUTHORS = {
    "encoder": {k: v for k, v in OWN.items() if k.startswith("encoder.")},
    "all": OWN | MOMENTUM,
    "heads": linear("projector.linear1", torch.zeros(24, 32))
    | linear("predictor.linear1")
    | linear("projector_k.linear1"),
}
INSLOC = {
    re.sub(r"^head\.(conv|bn)(\d)", lambda f: f"roi_head.bbox_head.shared_convs.{int(f[2]) - 1}.{f[1]}", key)
    .replace("head.fc1", "roi_head.bbox_head.shared_fcs.0")
    .replace("encoder.", "backbone."): value
    for key, value in OWN.items()
}
TORCHVISION = {
    # Two convolutions, a Flatten, then the linear layer.
    re.sub(r"^head\.(conv|bn)(\d)", lambda f: f"roi_heads.box_head.{int(f[2]) - 1}.{int(f[1] == 'bn')}", key)
    .replace("head.fc1", "roi_heads.box_head.3")
    .replace("neck.lateral_convs", "backbone.fpn.inner_blocks")
    .replace("neck.fpn_convs", "backbone.fpn.layer_blocks")
    .replace(".conv.", ".0.")
    .replace(".bn.", ".1.")
    .replace("encoder.", "backbone.body."): value
    for key, value in OWN.items()
}
RESIM = {f"fpn_{part}{level}.weight": CONV for part, level in (("lateral", 5), ("lateral", 4), ("output", 4))}
QUEUE = {"queue": torch.zeros(8, 16), "queue_ptr": torch.zeros(1, dtype=torch.int64)}
GENERIC = {
    "pixpro": linear("projector.linear1", CONV) | under("encoder_k.", RESNET) | linear("projector_k.linear1", CONV)
}

# layout -> what the release's file holds; whether the FPN and the box head come with it
RELEASES: dict[str, tuple[Any, bool]] = {
    "soco": ({"opt": Namespace(lr=1), "model": under("module.", AUTHORS["all"] | AUTHORS["heads"]), "epoch": 3}, True),
    "soco-c4": ({"model": under("module.", AUTHORS["encoder"] | AUTHORS["heads"])}, False),
    "pixpro": ({"model": under("module.", AUTHORS["encoder"] | GENERIC["pixpro"])}, False),
    "simsiam": ({"state_dict": under("module.encoder.", RESNET | MLP) | linear("module.predictor.0")}, False),
    "simclr-encoder": ({"state_dict": AUTHORS["encoder"] | linear("projection.model.0")}, False),
    "infomin": ({"model": under("module.", AUTHORS["encoder"] | linear("head.0") | linear("head_jig.fc1"))}, False),
    "resim": ({"state_dict": under("module.encoder_q.", RESNET | MLP | RESIM) | under("module.", QUEUE)}, False),
    "moco-v2": ({"state_dict": under("module.encoder_q.", RESNET | MLP), "arch": "resnet18"}, False),
    "moco": (
        {
            "state_dict": under("module.encoder_q.", RESNET | CLASSIFIER)
            | under("module.encoder_k.", RESNET | CLASSIFIER)
            | under("module.", QUEUE)
        },
        False,
    ),
    "densecl": (
        {
            "state_dict": under("backbone.", RESNET)
            | under("encoder_q.0.", RESNET)
            | linear("encoder_q.1.mlp.0")
            | under("encoder_k.0.", RESNET)
            | {**QUEUE, "queue2": torch.zeros(8, 16)}
        },
        False,
    ),
    "insloc": (
        {"state_dict": INSLOC | under("backbone_k.", RESNET) | linear("roi_head_k.fc") | QUEUE, "meta": {}},
        True,
    ),
    "mmdetection": (
        {"state_dict": INSLOC | linear("rpn_head.rpn_cls") | linear("roi_head.bbox_head.fc_cls"), "meta": {}},
        True,
    ),
    "simclr": ({"state_dict": under("backbone.", RESNET | MLP)}, False),
    "detcon-b": (
        {
            "state_dict": under("network.encoder.", numbered(RESNET))
            | linear("network.projector.0")
            | linear("predictor.0")
        },
        False,
    ),
    "detcon-s": (
        {"state_dict": under("network.encoder.", numbered(RESNET)) | linear("network.projector.0")},
        False,
    ),
    "byol": (
        {
            "online_network_state_dict": under("encoder.", numbered(RESNET)) | linear("projetion.net.0"),
            "target_network_state_dict": under("encoder.", numbered(RESNET)),
        },
        False,
    ),
    "byol-online": (under("online_network.encoder.", RESNET) | under("target_network.encoder.", RESNET), False),
    "byol-online-encoder": (under("online_encoder.net.", RESNET) | under("target_encoder.net.", RESNET), False),
    "swav": (under("module.", RESNET | linear("projection_head.0") | {"prototypes.weight": torch.zeros(8, 8)}), False),
    "torchvision-detector": (
        TORCHVISION | linear("rpn.head.cls_logits") | linear("roi_heads.box_predictor.cls_score"),
        True,
    ),
    "detectron2-fpn": (
        {"model": under("backbone.bottom_up.", detectron2(RESNET)) | linear("roi_heads.box_predictor")},
        False,
    ),
    "detectron2-c4": (
        {
            "model": {
                f"{'roi_heads' if key.startswith('res5') else 'backbone'}.{key}": value
                for key, value in detectron2(RESNET).items()
            }
        },
        False,
    ),
    "detectron2": ({"model": detectron2(RESNET) | linear("stem.fc"), "__author__": "torchvision"}, False),
    "torchvision": (RESNET | CLASSIFIER, False),
    "encoder-q": (under("encoder_q.", RESNET), False),
    "encoder": (AUTHORS["encoder"], False),
    "encoder-numbered": (under("module.encoder.", numbered(RESNET)), False),
    "backbone": ({"state_dict": under("module.backbone.", RESNET)}, False),
    "backbone-numbered": (under("backbone.", numbered(RESNET)), False),
    "vissl": ({"classy_state_dict": {"base_model": {"model": {"trunk": under("_feature_blocks.", RESNET)}}}}, False),
    "plain": ({"state_dict": RESNET, "author": "DenseCL"}, False),
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Any], Path]:
    def save(content: Any) -> Path:
        torch.save(content, tmp_path / "weights.pth.tar")
        return tmp_path / "weights.pth.tar"

    return save


def state_dict_of(content: Any) -> Tensors:
    """The innermost dictionary that holds tensors."""
    inner = [value for value in content.values() if isinstance(value, dict) and value]
    return state_dict_of(inner[0]) if inner else content


def test_every_layout_is_tried() -> None:
    assert RELEASES.keys() == {layout.name for layout in LAYOUTS}


def test_the_page_lists_every_layout_with_its_row() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "weights.md").read_text(encoding="utf-8")
    for layout in LAYOUTS:
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{layout.name}` | ")]
        last = row.removesuffix(" |").rpartition(" | ")[2]
        assert last == (layout.method or "none: give `--name`") + (
            f", {layout.c4_method} of C4" if layout.c4_method else ""
        )
        assert f"`{layout.prefix}`" in row or not layout.prefix


def test_the_rows_are_called_as_in_the_papers_tables() -> None:
    rows = {layout.row(architecture) for layout in LAYOUTS for architecture in ("fpn", "c4")} - {None}
    of_the_paper = {row.method for benchmark in BENCHMARKS for row in paper_rows(benchmark.name)}
    # Beside our own rows, SoCo and SoCo*, those of the authors' weights.
    assert rows - of_the_paper == {"SoCo (authors)", "SoCo-C4 (authors)"}
    in_table_1 = {row.method for benchmark in ("coco-fpn-1x", "coco-fpn-2x") for row in paper_rows(benchmark)}
    assert in_table_1 - rows == {"Scratch", "SoCo", "SoCo*"}


@pytest.mark.parametrize("layout", RELEASES)
def test_a_release_is_told_by_its_keys_and_nothing_gets_lost(layout: str, write: Callable[[Any], Path]) -> None:
    content, whole = RELEASES[layout]
    imported = import_weights(write(content), MODEL)
    assert imported.layout.name == layout
    numbers = OWN if whole else under("encoder.", RESNET)
    counters = {key for key in numbers if key.endswith("num_batches_tracked")}
    assert imported.tensors.keys() | (counters if "detectron2" in layout else set()) == numbers.keys()
    assert all(torch.equal(value, numbers[key]) for key, value in imported.tensors.items())
    coverage = imported.coverage
    assert coverage.loaded.keys() | coverage.left_out.keys() == state_dict_of(content).keys()
    assert not coverage.loaded.keys() & coverage.left_out.keys()
    assert set(coverage.loaded.values()) == imported.tensors.keys()
    assert coverage.newly_initialised.keys() == OWN.keys() - imported.tensors.keys()
    assert all(coverage.left_out.values())


@pytest.mark.parametrize("layout", RELEASES)
def test_a_release_without_a_key_of_the_backbone_is_refused(layout: str, write: Callable[[Any], Path]) -> None:
    def without(content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        last = re.compile(r"(layer4|res5|7)\.1\.(bn2|conv2\.norm)\.running_var$")
        return {key: without(value) for key, value in content.items() if not last.search(str(key))}

    with pytest.raises(InputError) as caught:
        import_weights(write(without(RELEASES[layout][0])), MODEL)
    assert re.search(r"weights\.pth\.tar: has no layer4\.1\.bn2\.running_var \(1 of the backbone's", str(caught.value))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.zeros(512, dtype=torch.int32), "layer4.1.bn2.weight holds int32 numbers; give the weights as"),
        (torch.zeros(512, dtype=torch.complex64), "holds complex64 numbers"),
        (torch.zeros(512).to_sparse(), "holds float32 numbers, torch.sparse_coo"),
        (torch.full((512,), torch.nan), "layer4.1.bn2.weight holds NaN or infinity"),
        (torch.full((512,), -torch.inf), "holds NaN or infinity"),
    ],
)
def test_numbers_that_no_detector_computes_with_are_refused(
    value: torch.Tensor, words: str, write: Callable[[Any], Path]
) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        import_weights(write(RESNET | CLASSIFIER | {"layer4.1.bn2.weight": value}), MODEL)


def test_a_release_in_half_precision_gets_the_detectors_floats(write: Callable[[Any], Path]) -> None:
    half = {key: value.half() if value.is_floating_point() else value for key, value in RESNET.items()}
    imported = import_weights(write(half), MODEL)
    assert imported.tensors["encoder.conv1.weight"].dtype == torch.float32
    assert imported.tensors["encoder.conv1.weight"].equal(half["conv1.weight"].float())


@pytest.mark.parametrize("layout", ["soco", "moco-v2", "byol", "insloc", "detectron2", "torchvision", "swav"])
def test_a_wrong_shape_is_refused_by_the_files_own_key(layout: str, write: Callable[[Any], Path]) -> None:
    named: list[str] = []

    def misshaped(content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        first = re.compile(
            r"^(?!.*_k\.)(.*\.)?((stem\.|^|encoder\.|encoder_q\.|backbone\.|module\.)conv1|encoder\.0)\.weight$"
        )
        changed = {key: misshaped(value) for key, value in content.items()}
        for key in changed:
            if first.match(str(key)):
                named.append(key)
                changed[key] = torch.zeros(64, 3, 3, 3)
        return changed

    with pytest.raises(InputError) as caught:
        import_weights(write(misshaped(RELEASES[layout][0])), MODEL)
    text = str(caught.value)
    assert named[0] in text
    assert "[64, 3, 3, 3], the recipe's model needs [64, 3, 7, 7]" in text


def test_an_unknown_layout_lists_the_prefixes(write: Callable[[Any], Path]) -> None:
    with pytest.raises(InputError) as caught:
        import_weights(write({"state_dict": under("student.trunk.", RESNET) | linear("teacher.head")}), MODEL)
    assert str(caught.value).endswith(
        "no known layout; its keys begin with student.trunk, teacher.head; save the backbone's state dict alone, under "
        "torchvision's names"
    )


def test_a_named_layout_is_taken_or_refused(write: Callable[[Any], Path]) -> None:
    path = write(RELEASES["moco-v2"][0])
    for name in ("encoder-q", "resim"):  # the signs of a named layout need not be there
        assert import_weights(path, MODEL, name).layout.name == name
    with pytest.raises(
        InputError, match=r"not of the layout `swav`, which has conv1.weight; its keys begin with encoder_q"
    ):
        import_weights(path, MODEL, "swav")
    with pytest.raises(InputError, match=r"--layout moko: no such layout; there are soco, "):
        import_weights(path, MODEL, "moko")


@pytest.mark.parametrize("extra", ["layer1.0.se.fc1.weight", "layer5.0.conv1.weight", "conv1.3.weight", "norm.weight"])
def test_a_block_that_a_resnet_does_not_have_is_refused_not_left_out(extra: str, write: Callable[[Any], Path]) -> None:
    with pytest.raises(InputError, match=re.escape(f"module.encoder_q.{extra} is no key of a ResNet")):
        import_weights(write({"state_dict": under("module.encoder_q.", RESNET | MLP | {extra: torch.zeros(8)})}), MODEL)


def test_a_larger_resnet_is_refused(write: Callable[[Any], Path]) -> None:
    with pytest.raises(InputError, match=r"layer1\.2\.conv1\.weight is not a key of the recipe's model\.backbone"):
        import_weights(write(RESNET | CLASSIFIER | {"layer1.2.conv1.weight": torch.zeros(64, 64, 3, 3)}), MODEL)


def test_the_authors_weights_want_their_recipe(write: Callable[[Any], Path]) -> None:
    content = RELEASES["soco"][0]
    with pytest.raises(InputError, match=r"has no head\.bn3\.bias; use the recipe"):
        import_weights(write(content), MODEL.model_copy(update={"head_convs": 3}))
    c4 = ModelConfig(architecture="c4", backbone="resnet18", roi_size=14)
    imported = import_weights(write(content), c4)
    assert {key.partition(".")[0] for key in imported.tensors} == {"encoder"}
    assert "the recipe has no head" in imported.coverage.left_out["module.head.fc1.weight"]


def test_another_pyramid_than_the_recipes_is_left_out(write: Callable[[Any], Path]) -> None:
    biased = {**INSLOC, "neck.fpn_convs.0.conv.bias": torch.zeros(16)}
    imported = import_weights(write({"state_dict": biased | under("backbone_k.", RESNET)}), MODEL)
    assert {key.partition(".")[0] for key in imported.tensors} == {"encoder", "head"}
    assert "other parts" in imported.coverage.left_out["neck.lateral_convs.3.conv.weight"]


@pytest.mark.parametrize(
    ("lateral", "output"),
    [("neck.lateral_convs", "neck.fpn_convs"), ("backbone.fpn.inner_blocks", "backbone.fpn.layer_blocks")],
    ids=["mmdetection", "torchvision"],
)
def test_a_pyramid_of_another_number_of_levels_is_left_out(
    lateral: str, output: str, write: Callable[[Any], Path]
) -> None:
    # Two levels from C4 on: as RetinaNet's, or as Mask R-CNN's, each would lie in another.
    content = {
        key: value
        for key, value in (INSLOC if lateral.startswith("neck") else TORCHVISION).items()
        if not key.startswith((f"{lateral}.2.", f"{lateral}.3.", f"{output}.2.", f"{output}.3."))
    }
    imported = import_weights(write(content), MODEL)
    assert {key.partition(".")[0] for key in imported.tensors} == {"encoder", "head"}
    assert sum("its neck has other parts" in reason for reason in imported.coverage.left_out.values()) == 24


@pytest.mark.parametrize("wrapped", [False, True])
def test_caffe2s_resnet_is_refused_because_it_computes_something_else(tmp_path: Path, wrapped: bool) -> None:
    blobs = {"conv1_w": np.zeros((64, 3, 7, 7), np.float32), "res2_0_branch2a_w": np.zeros(3, np.float32)}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps({"blobs": blobs} if wrapped else blobs, 2))
    with pytest.raises(InputError, match=r"R-50.pkl: a ResNet of Caffe2 .*BGR.*stride in the first 1x1.*torchvision"):
        import_weights(tmp_path / "R-50.pkl", MODEL)


def test_a_detector_of_the_model_zoo_is_refused(tmp_path: Path) -> None:
    arrays = {"backbone.bottom_up.stem.conv1.weight": np.zeros((64, 3, 7, 7), np.float32)}
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}))
    with pytest.raises(InputError, match=r"model zoo, trained on BGR"):
        import_weights(path, MODEL)


def test_detectron2s_pickle_of_torchvisions_resnet(tmp_path: Path) -> None:
    arrays = {key: value.numpy() for key, value in detectron2(RESNET).items()}
    path = tmp_path / "R-18.pkl"
    content = {"model": arrays, "__author__": "torchvision", "matching_heuristics": True}
    path.write_bytes(pickle.dumps(content, 2))
    imported = import_weights(path, MODEL)
    assert imported.layout.name == "detectron2"
    for key, value in imported.tensors.items():
        assert torch.equal(value, RESNET[key.removeprefix("encoder.")])
    assert imported.coverage.newly_initialised["encoder.bn1.num_batches_tracked"].startswith("a counter")


def test_what_holds_no_tensors_is_refused(write: Callable[[Any], Path]) -> None:
    with pytest.raises(InputError, match=r"holds no state dict; its keys are epoch, optimizer"):
        import_weights(write({"epoch": 3, "optimizer": {}}), MODEL)


def test_the_momentum_copy_is_left_out_as_such(write: Callable[[Any], Path]) -> None:
    left_out = import_weights(write(RELEASES["moco"][0]), MODEL).coverage.left_out
    assert left_out["module.encoder_k.conv1.weight"].startswith("momentum copy of the network")
    assert left_out["module.queue"].startswith("queue of negatives")
    assert left_out["module.encoder_q.fc.weight"].startswith("classifier or projection")
