"""What stands where on a run's TensorBoard, in words for people who see it for the first time."""

from stn_cli.models.grid_generators import (
    AffineGrid,
    AttentionGrid,
    GridGenerator,
    ProjectiveGrid,
    SimilarityGrid,
    ThinPlateSplineGrid,
)

TEST_IMAGES, WORST = "pictures/1 test images", "pictures/2 worst errors"  # TensorBoard sorts them
MEANS, CONFUSION = "pictures/3 class means", "pictures/4 confusion matrix"

ABOUT_PICTURES = {
    TEST_IMAGES: (
        "The same test images at every evaluation. **Input**; the same with the **sampling grid** over it, which is "
        "where the transformer reads (thick side: top of the output, disc: its top left corner); **output**, which is "
        "what the classifier sees. Below: true class → predicted class, red where wrong. Move the slider to see the "
        "warps come about."
    ),
    WORST: (
        "The held-out images that are most surely taken for another class: those wrong ones with the highest loss. "
        "Drawn as the test images."
    ),
    MEANS: (
        "The mean of all held-out images of a class, before and after the warp. The sharper the mean after, the more "
        "alike the transformer makes the images of a class."
    ),
    CONFUSION: (
        "Held-out images by true class (row) and predicted class (column). Green: right. Orange: mistakes, the darker "
        "the larger their share of the class."
    ),
}

_SCALARS = {
    ("train", "loss"): ("loss/training", "Mean cross entropy of the training batches since the point before."),
    ("validation", "loss"): ("loss/validation", "Mean cross entropy of the held-out images."),
    ("train", "error_percent"): ("error_percent/training", "Share of wrong training images since the point before."),
    ("validation", "error_percent"): (
        "error_percent/validation",
        "Share of wrong held-out images; the best weights are kept.",
    ),
    ("test", "error_percent"): (
        "error_percent/test",
        "Share of wrong test images, measured once, at the end: the result.",
    ),
    ("test", "loss"): ("loss/test", "Mean cross entropy of the test images, measured once, at the end."),
    ("train", "learning_rate"): ("learning_rate/classifier", "The step of the optimiser, as the schedule says."),
    ("train", "gradient_norm"): (
        "gradient/norm",
        "Mean length of the gradient before clipping. Leaps foretell a run that breaks off.",
    ),
    ("train", "images_per_second"): ("speed/images_per_second", "Training images per second, without evaluations."),
}

_WARPS = {
    "outside_percent": "Share of what the transformer reads that lies outside the image. Above 75 % it has run away.",
    "scale": "How much of the image it reads, as a length: 1 all of it, 0.5 a quarter of its area, enlarged.",
    "angle_degrees": "By what angle it turns images, in the mean, either way. 0 at the beginning.",
    "shift": "How far the middle of what it reads is off the image's middle, in the mean; 1 is the edge.",
    "theta_sd": "How much θ differs from image to image. At 0 all images get one and the same warp.",
}

_MATRIX = ("scale x", "shear x", "shift x", "shear y", "scale y", "shift y")
_COMPONENTS: dict[type[GridGenerator], tuple[str, ...]] = {
    AttentionGrid: ("scale", "shift x", "shift y"),
    SimilarityGrid: ("scale · cos angle", "scale · sin angle", "shift x", "shift y"),
    AffineGrid: _MATRIX,
    ProjectiveGrid: (*_MATRIX, "tilt along x", "tilt along y"),
    ThinPlateSplineGrid: tuple(f"point {i // 4 + 1},{i % 4 + 1} {axis}" for i in range(16) for axis in "xy"),
}
ABOUT_THETA = (
    "This number of θ over the held-out images; one sharp peak: all get the same warp. θ says where the output's "
    "(x, y), from −1 to 1, is read in the input: at scale x · x + shear x · y + shift x across, and at "
    "shear y · x + scale y · y + shift y down. Of a spline it is where each control point (row, column) is read."
)

GUIDE = """\
- **Scalars**: `error_percent` and `loss` of training, held-out (validation) and, at the end, test images; \
`learning_rate` of classifier and localisation networks; `speed`; `gradient`; `warp …`: what each transformer does, \
in numbers. The (i) beside a curve says more.
- **Images**: the same `test images` at every evaluation, with the sampling grid over them and the output; the \
`worst errors`; `class means` before and after the warp; the `confusion matrix`. A click shows a picture in full size, \
the slider above it goes back in time.
- **Histograms**: `theta …`, every number of each transformer's warp, over the held-out images.
- **HParams**: this run and, where several are shown, all others, with their settings and errors.
- **Text**: `config`, all settings; `environment`, versions and machine.

A transformer looks at its image, decides on a warp θ and hands the warped image on. It is called by the layer it \
stands before: `input`, `conv2`. θ maps output to input in coordinates from −1 to 1: with no warp it is the identity, \
and a transformer that *reads* a smaller part *shows* it larger.

`metrics.jsonl` in the folder of the run has every number with all its digits.
"""


def scalar_tag(split: str, name: str) -> tuple[str, str] | None:
    """Return where a number of a split stands and what it says: by quantity, so that splits stand side by side.

    None for what is said of each transformer too.
    """
    if (split, name) == ("validation", "outside_percent"):
        return None
    if split.startswith("warp "):
        return f"{split}/{name}", _WARPS.get(name, "")
    if split == "learning_rate":
        return f"{split}/{name}", "The step of the localisation network's optimiser; a roll-back divides it by ten."
    return _SCALARS.get((split, name), (f"{split}/{name}", ""))


def theta_tags(transformer: str, generator: GridGenerator) -> list[str]:
    """Return where the histograms of θ stand, component by component, numbered since TensorBoard sorts them."""
    names = _COMPONENTS[type(generator)]
    digits = len(str(len(names)))
    return [f"theta {transformer}/{number:0{digits}} {name}" for number, name in enumerate(names, start=1)]
