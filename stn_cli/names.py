"""The closed lists of names a user may write. No heavy imports, so that `--help` can show them at once."""

MODELS = ("fcn", "cnn", "st-fcn", "st-cnn")
# The named layers of each classifier in order. Those called conv see maps, so a transformer may stand before them.
LAYERS = {"fcn": ("fc1", "fc2", "output"), "cnn": ("conv1", "conv2", "output")}
TRANSFORMS = ("attention", "similarity", "affine", "projective", "tps")
DISTORTIONS = ("none", "R", "RTS", "P", "E", "T", "TC", "addition", "volume", "chain")
DATASETS = (
    "digits",
    "mnist",
    "fashion-mnist",
    "kmnist",
    "emnist-balanced",
    "emnist-byclass",
    "emnist-bymerge",
    "emnist-letters",
    "emnist-digits",
    "emnist-mnist",
    "qmnist",
    "qmnist-50k",
)
RECIPES = ("quick", "paper")
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "float32", "bf16")
FORMATS = ("idx", "png", "safetensors")
# What torchrun sets for each process of a run.
RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
SWEEPS = ("rotation", "scale", "shift", "noise")
