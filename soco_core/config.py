"""The recipe: everything that determines a result, checked before anything runs.

Its defaults are the paper's values (section in parentheses beside each field). Unknown keys, wrong
types and impossible combinations are refused. A recipe is read from YAML by ``soco_core.recipes``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BeforeValidator, Field, model_validator

from soco_core.config_fields import PositiveFloat, PositiveInt, Probability, ResNetName, Section
from soco_core.finetune_config import FinetuneConfig
from soco_core.linear_config import LinearConfig

SUBSET_FORMS = "give coco-size, a percentage such as 10%, a number of images, or a file of ids"
"""What `images.subset` may be, for messages."""


def _number_as_text(value: object) -> str:
    """YAML reads `5000` as a number."""
    if type(value) is not int and not isinstance(value, str):
        raise ValueError(f"{SUBSET_FORMS}, not {value!r}")
    return str(value)


class ImagesConfig(Section):
    """Which images there are, and how the set is identified."""

    layout: Literal["auto", "folder", "coco", "voc", "pack"] = "auto"
    """`auto` looks: a pack (`soco pack`), VOC, COCO, else every image file of the folder tree (ImageNet's layout)."""
    splits: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")], ...] = ()
    """Splits of COCO or VOC. By default those of train2017, unlabeled2017, train, unlabeled that are there (Table 9
    pretrains on COCO train2017 + unlabeled2017); VOC: trainval."""
    subset: Annotated[str, BeforeValidator(_number_as_text)] = ""
    """`coco-size` (241,690 images, as many as COCO train2017 + unlabeled2017: Table 9's ImageNet-subset), `10%`,
    `5000` (images), or a file that lists ids, one a line. Empty: all images."""
    max_pixels: PositiveInt = 89_478_485
    """An image of more pixels counts as bad: a decompression bomb (Pillow's limit)."""
    fingerprint: Literal["contents", "sizes"] = "contents"
    """`contents` hashes every file; `sizes` hashes names and sizes only, for sets too large to read twice."""


class ProposalsConfig(Section):
    """Selective search and the filter of its boxes (3.2, A.1)."""

    engine: Literal["opencv", "exact", "random", "import"] = "opencv"
    """`opencv`: OpenCV's ximgproc; `exact`: the boxes of the pure-Python `selectivesearch`, whose parameters the paper
    gives; `random` boxes (Table 5c); `import`: those of `boxes_file`."""
    scale: PositiveInt = 500
    """Selective search `scale`: higher means fewer, larger segments (A.1)."""
    sigma: PositiveFloat = 0.9
    """Diameter of the Gaussian that smooths the image before segmentation (A.1)."""
    min_size: PositiveInt = 10
    """Minimum component size in pixels (A.1)."""
    opencv_mode: Literal["single", "fast", "quality"] = "single"
    """`single`: one graph segmentation at the parameters above; `fast` and `quality`: OpenCV's own modes, with their
    own parameters, colour spaces and strategies."""
    opencv_colours: Annotated[tuple[Literal["bgr", "hsv", "lab"], ...], Field(min_length=1)] = ("bgr",)
    """Colour spaces that `single` segments and groups; the boxes of all are united."""
    opencv_strategies: Literal[1, 2, 4] = 1
    """Groupings of `single`, as in OpenCV's modes: 1 by colour, texture, size and fill; 2 also by texture, size and
    fill; 4 also by fill alone and by size alone."""
    exact_texture_range: Literal["unit", "byte"] = "unit"
    """Range over which `exact` bins its texture codes: `unit` 0..1 as the `selectivesearch` package does, `byte`
    0..255 as the authors' copy of it does."""
    random_boxes: PositiveInt = 4
    """Boxes that `random` draws in each image (Table 5c: 1, 4, 8)."""
    boxes_file: str = ""
    """JSON file (path or s3:// URI) that `import` reads: the authors' {name: [[x, y, w, h], ...]}, COCO annotations or
    COCO results."""
    max_long_side: Annotated[int, Field(ge=64, le=10_000)] = 1000
    """Images with a longer side are searched on a copy reduced to this, in pixels: the cost grows faster than the
    area."""
    max_aspect_ratio: Annotated[float, Field(ge=1)] = 3.0
    """Keep 1/r <= w/h <= r (3.2, requirement 1)."""
    min_relative_size: Probability = 0.3
    """Lower bound of sqrt(wh)/sqrt(WH) (3.2, requirement 2)."""
    max_relative_size: Probability = 0.8
    """Upper bound of sqrt(wh)/sqrt(WH) (3.2, requirement 2)."""
    min_side: Annotated[int, Field(ge=0)] = 0
    """Least width and height in pixels. The paper has no such rule; the authors' code uses 32."""
    fallback_min_side: PositiveInt = 32
    """Least width and height of the second fallback (the paper is silent; the authors' code: 32)."""
    keep_duplicates: bool = False
    """Whether a box that several regions share stays as often as it was found: "a set" has it once (3.2); the authors'
    code keeps them all, and so draws such a box more often."""

    @model_validator(mode="after")
    def _sizes_in_order(self) -> Self:
        if self.min_relative_size >= self.max_relative_size:
            raise ValueError(
                f"min_relative_size ({self.min_relative_size}) must be below max_relative_size "
                f"({self.max_relative_size})"
            )
        return self

    @model_validator(mode="after")
    def _engine_has_what_it_needs(self) -> Self:
        if (self.engine == "import") != bool(self.boxes_file):
            raise ValueError("engine `import` and boxes_file belong together: give both or neither")
        if len(set(self.opencv_colours)) < len(self.opencv_colours):
            raise ValueError(f"opencv_colours {list(self.opencv_colours)} names a colour space twice")
        if self.opencv_mode != "single" and (self.opencv_colours != ("bgr",) or self.opencv_strategies != 1):
            raise ValueError(
                f"opencv_mode `{self.opencv_mode}` has colour spaces and strategies of its own; leave opencv_colours "
                "and opencv_strategies out, or take the mode `single`"
            )
        return self


class ViewsConfig(Section):
    """View construction, box jitter and augmentation (3.2, 4.1)."""

    objects: Literal["proposals", "whole-image"] = "proposals"
    """What is contrasted: object proposals, or each view as one object (Table 4, first row: K is then 1)."""
    size: Annotated[int, Field(ge=32, le=2048)] = 224
    """Side of V1 and V2 in pixels (3.2)."""
    crop_source: Literal["first", "image"] = "first"
    """What V2, V4 (and V3, if it is a crop) are cropped from: V1 (3.2), or the original image (the authors' code)."""
    third_view: Literal["downsampled", "crop", "none"] = "downsampled"
    """V3: V2 downsampled (3.2), a crop of its own (the authors' code), or none (C4; Table 4 without Multi View)."""
    small_size: Annotated[int, Field(ge=32)] = 112
    """Side of V3 in pixels (3.2, Table 5a)."""
    fourth_view: bool = False
    """V4, a random crop at `fourth_size`: SoCo* (4.1)."""
    fourth_size: Annotated[int, Field(ge=32)] = 192
    """Side of V4 in pixels (SoCo*)."""
    draw: Literal["shared", "per-pair"] = "shared"
    """Proposals of an image: the same K in all views (3.2), or K drawn for each pair (V1, Vj) among those that overlap
    both (the authors' code)."""
    crop_min_scale: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Least area of V2's crop, as a share of V1's (3.2)."""
    crop_max_scale: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Largest area of V2's crop, as a share of V1's (3.2)."""
    crop_max_aspect_ratio: Annotated[float, Field(ge=1)] = 4 / 3
    """V2's crop has an aspect ratio in [1/r, r] (the paper is silent; the authors' code: 4/3)."""
    proposals_per_image: PositiveInt = 4
    """K, the proposals drawn for an image in each step (Table 5c)."""
    jitter_probability: Probability = 0.5
    """Probability that a proposal's copy in a view is jittered (3.2)."""
    jitter_views: Literal["all", "first"] = "all"
    """Views whose boxes are jittered: all, each on its own (3.2, on the proposals), or V1 only (the authors' code)."""
    jitter_range: Annotated[float, Field(ge=0, lt=0.5)] = 0.1
    """Offsets r of centre and size are drawn from [-range, range] (3.2)."""
    flip_probability: Probability = 0.5
    """Horizontal flip, drawn for each view (4.1)."""
    colour_jitter_probability: Probability = 0.8
    """Probability of the colour distortion (BYOL's pipeline, 4.1)."""
    brightness: Probability = 0.4
    """Brightness factor is drawn from [1 - b, 1 + b]."""
    contrast: Probability = 0.4
    """Contrast factor is drawn from [1 - c, 1 + c]."""
    saturation: Probability = 0.2
    """Saturation factor is drawn from [1 - s, 1 + s]."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Hue shift, in turns, is drawn from [-h, h]."""
    grayscale_probability: Probability = 0.2
    """Probability of grayscale."""
    blur_probability_first: Probability = 1.0
    """Probability of Gaussian blur in V1."""
    blur_probability_others: Probability = 0.1
    """Probability of Gaussian blur in the other views."""
    blur_min_sigma: PositiveFloat = 0.1
    """Least sigma of the blur, in pixels."""
    blur_max_sigma: PositiveFloat = 2.0
    """Largest sigma of the blur, in pixels."""
    solarise_probability_first: Probability = 0.0
    """Probability of solarisation in V1."""
    solarise_probability_others: Probability = 0.2
    """Probability of solarisation in the other views."""
    cutout_probability: Probability = 0.0
    """Probability that a square is cut out of a box of V2, V3 or V4 (0.5 in the authors' code for C4, and for FPN at
    100 epochs)."""
    cutout_min_area: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Least area of the square, as a share of its box's (the authors' code)."""
    cutout_max_area: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Largest area of the square, as a share of its box's (the authors' code)."""

    @model_validator(mode="after")
    def _ranges_in_order(self) -> Self:
        if self.crop_min_scale > self.crop_max_scale:
            raise ValueError(
                f"crop_min_scale ({self.crop_min_scale}) must not exceed crop_max_scale ({self.crop_max_scale})"
            )
        if self.blur_min_sigma > self.blur_max_sigma:
            raise ValueError("blur_min_sigma must not exceed blur_max_sigma")
        if self.cutout_min_area > self.cutout_max_area:
            raise ValueError(
                f"cutout_min_area ({self.cutout_min_area}) must not exceed cutout_max_area ({self.cutout_max_area})"
            )
        if self.third_view != "none" and self.small_size > self.size:
            raise ValueError(f"small_size ({self.small_size}) must not exceed size ({self.size})")
        if self.fourth_view and self.fourth_size > self.size:
            raise ValueError(f"fourth_size ({self.fourth_size}) must not exceed size ({self.size})")
        if self.objects == "whole-image" and self.proposals_per_image != 1:
            raise ValueError("objects `whole-image` is one object an image: set proposals_per_image to 1")
        return self


class ModelConfig(Section):
    """Backbone, FPN, box head, projector and predictor (3.3, 4.1); the switches of Table 4."""

    architecture: Literal["fpn", "c4"] = "fpn"
    """`fpn`: SoCo-R50-FPN; `c4`: SoCo-R50-C4, RoIAlign on C4 and the fifth residual block as head (3.3)."""
    backbone: ResNetName = "resnet50"
    """A torchvision ResNet; its stride is in the 3x3 convolution."""
    use_fpn: bool = True
    """Pool from an FPN; without it from `backbone_level` (Table 4, FPN)."""
    use_head: bool = True
    """The box head makes h of a pooled region; without it h is the region's average (Table 4, Head)."""
    scale_aware: bool = True
    """Each box on the level of its size; without it all on `single_level` (Table 4, Scale-aware Assignment)."""
    single_level: Literal["P2", "P3", "P4", "P5"] = "P4"
    """Level of all boxes without `scale_aware` (the paper is silent: docs/ablations.md)."""
    backbone_level: Literal["C4", "C5"] = "C5"
    """Feature map that boxes are pooled from without `use_fpn` (the paper is silent: docs/ablations.md)."""
    head_levels: Literal["own", "all"] = "own"
    """The head sees a box at its own level (3.3), or at all four, of which only its own counts (the authors' code)."""
    head_calls: Literal["joint", "per-view"] = "joint"
    """Regions that share batch statistics in head, projector and predictor: those of all views, or of each view (and of
    each level, with head_levels `all`) on its own (the authors' code)."""
    fpn_channels: PositiveInt = 256
    """Channels of P2..P5."""
    head_convs: PositiveInt = 4
    """3x3 convolutions (BN, ReLU) of the box head."""
    head_fc_size: PositiveInt = 1024
    """Width of the box head's output, the object-level representation h."""
    roi_size: PositiveInt = 7
    """Side of the RoIAlign grid (the C4 recipes: 14)."""
    hidden_size: PositiveInt = 4096
    """Width of the hidden layer of projector and predictor (4.1)."""
    embedding_size: PositiveInt = 256
    """Width of the latent embeddings v (4.1)."""
    level_limits: tuple[PositiveInt, PositiveInt, PositiveInt] = (48, 96, 192)
    """Largest sqrt(area), in view pixels, of a box on P2, P3, P4; larger ones go to P5 (3.3)."""

    @model_validator(mode="after")
    def _limits_increase(self) -> Self:
        if not self.level_limits[0] < self.level_limits[1] < self.level_limits[2]:
            raise ValueError(f"level_limits {list(self.level_limits)} must increase")
        return self

    @model_validator(mode="after")
    def _switches_agree(self) -> Self:
        if self.architecture == "c4" and not (self.use_fpn and self.use_head and self.scale_aware):
            raise ValueError(
                "architecture `c4` has neither FPN nor levels: leave use_fpn, use_head and scale_aware out"
            )
        if not self.use_fpn and (self.use_head or self.scale_aware):
            raise ValueError(
                "without use_fpn there is neither box head nor level: set use_head and scale_aware to false"
            )
        if self.head_levels == "all" and not (self.architecture == "fpn" and self.use_head and self.scale_aware):
            raise ValueError("head_levels `all` goes with architecture `fpn`, use_head and scale_aware")
        return self

    @model_validator(mode="after")
    def _levels_are_read(self) -> Self:
        default = type(self).model_fields  # Merely stated, as in a result's config.yaml, it is no mistake.
        if (self.scale_aware or not self.use_fpn) and self.single_level != default["single_level"].default:
            raise ValueError(
                "single_level is read with an FPN and without scale_aware: set scale_aware to false, or leave it out"
            )
        if self.use_fpn and self.backbone_level != default["backbone_level"].default:
            raise ValueError(
                "backbone_level is read without FPN: set use_fpn, use_head and scale_aware to false, or leave it out"
            )
        return self


class PretrainConfig(Section):
    """Optimisation of the pretraining (4.1)."""

    epochs: PositiveInt = 100
    """Passes over the image set (4.1: 100 or 400)."""
    batch_size: Annotated[int, Field(ge=2)] = 2048
    """Images in a step (4.1)."""
    base_learning_rate: PositiveFloat = 1.0
    """Learning rate for a batch of 256; it is scaled linearly with the batch (4.1)."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 10.0
    """Epochs of linear warm-up (4.1)."""
    warmup_start_factor: Annotated[float, Field(gt=0, le=1)] = 0.01
    """The warm-up begins at this share of the learning rate (the authors' code)."""
    final_learning_rate: Annotated[float, Field(ge=0)] = 1e-6
    """Learning rate of the last step (the authors' code)."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-5
    """Weight decay of LARS (4.1)."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of LARS."""
    trust_coefficient: PositiveFloat = 1e-3
    """Trust coefficient of LARS."""
    ema_start: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """The target network's momentum coefficient tau at step 0; it rises to 1 (4.1, Table 5d)."""
    divergence_steps: PositiveInt = 200
    """Training stops when the loss, averaged over so many steps after the warm-up, has risen half the way back from its
    best such average to 0, where unrelated embeddings are."""

    @model_validator(mode="after")
    def _warmup_ends(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs ({self.warmup_epochs}) must be below epochs ({self.epochs})")
        return self


class DemoDataConfig(Section):
    """The rendered scenes of `soco demo-data`."""

    train_images: PositiveInt = 240
    """Images with annotations to train on."""
    val_images: PositiveInt = 50
    """Images with annotations to evaluate on."""
    unlabelled_images: PositiveInt = 320
    """Images without annotations to pretrain on."""
    image_size: Annotated[int, Field(ge=64, le=1024)] = 160
    """Side of a scene in pixels."""


class DatasetsConfig(Section):
    """Where the data sets lie (docs/datasets.md). `--data` comes before it, SOCO_DATA after it."""

    coco: str = ""
    """COCO 2017: annotations/, train2017/, val2017/, unlabeled2017/; a folder or an s3:// URI, as the others."""
    voc: str = ""
    """Pascal VOC: VOC2007/ and VOC2012/."""
    lvis: str = ""
    """LVIS v1: lvis_v1_train.json and lvis_v1_val.json, also in annotations/; images there or in `coco`."""
    imagenet: str = ""
    """ImageNet: train/CLASS/ and val/CLASS/."""
    image_ids: str = ""
    """File that lists the training images of mini-coco-5, mini-coco-10 or coco-50pct. Empty: chosen by their ids."""


class RuntimeConfig(Section):
    """How a machine does the work. No fingerprint includes it; `images_per_process` and the precisions do change the
    numbers, and are recorded with the result."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU where there is one."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the networks in pretraining, and of the backbone in the linear evaluation. `auto`: bf16 on a GPU that has it
    natively, fp16 with a gradient scaler on an older one (V100), fp32 on a CPU. Losses, batch-norm statistics, RoIAlign
    and the optimiser stay in fp32."""
    finetune_precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    """Of the detector in finetuning; fp32 as detectron2's default. Others are recorded in the result."""
    evaluate_steps: Annotated[int, Field(ge=0)] = 0
    """Steps between evaluations during finetuning, whose columns go into its metrics; 0: only the one at the end."""
    images_per_process: Annotated[int, Field(ge=1)] | None = None
    """Most images that a process holds at once in pretraining. A larger share of the batch is accumulated, and batch
    norm then sees the smaller one, which changes the result: it is warned of and recorded. null: the whole share."""
    processes: PositiveInt | None = None
    """Processes of each training that a pipeline starts (a PyTorchJob has its own number). null: one for each GPU that
    it sees, fewer if a batch cannot be divided so; one on a CPU. A `soco` command is given them by `torchrun`."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Processes that load data in training, for each of its own; 0 works in the main process."""
    search_workers: Annotated[int, Field(ge=0)] | None = None
    """Processes for proposals; 0 works in the main process, null takes one a core."""
    checkpoint_steps: PositiveInt = 500
    """Steps between checkpoints. There is one at the end of each epoch besides, and of the training."""
    checkpoint_minutes: PositiveFloat = 15.0
    """Most minutes between checkpoints, by the first process's clock."""
    checkpoints_kept: PositiveInt = 2
    """Checkpoints kept, newest first."""
    checkpoint_keep_epochs: Annotated[int, Field(ge=0)] = 0
    """The checkpoints of every so many epochs are kept for good besides (pretraining); 0: none."""
    log_steps: PositiveInt = 10
    """Steps between two points of a curve in MLflow."""


class Recipe(Section):
    """A complete recipe."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")] = "unnamed"
    """Shown in reports and in MLflow."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of every random choice."""
    images: ImagesConfig = ImagesConfig()
    proposals: ProposalsConfig = ProposalsConfig()
    views: ViewsConfig = ViewsConfig()
    model: ModelConfig = ModelConfig()
    pretrain: PretrainConfig = PretrainConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    linear: LinearConfig = LinearConfig()
    demo_data: DemoDataConfig = DemoDataConfig()
    datasets: DatasetsConfig = DatasetsConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    def to_yaml(self) -> str:
        """Return the resolved recipe as YAML that :func:`soco_core.recipes.parse_recipe` reads back unchanged."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    def part(self, *sections: str) -> dict[str, Any]:
        """Return the named sections (or top-level fields) as plain JSON types, for a fingerprint.

        Raises:
            KeyError: the recipe has no such section; a fingerprint that left it out would be wrong.
        """
        values = self.model_dump(mode="json")
        return {section: values[section] for section in sections}
