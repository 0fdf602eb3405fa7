"""A training step never touches the host: only so can it be recorded as a CUDA graph.

The steps here compute nothing: their tensors are PyTorch's fake ones, which have a shape, a type and a device, CUDA
here, and no values. Every operation is watched. One that looks at a value, or whose result has a shape that depends on
values, has no fake; one with a tensor of the host beside those of the device is noted. What happens among tensors of
the host alone is not: it is over when the step has been recorded.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import Parameter
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from stn_cli.config import RunConfig
from stn_cli.config_files import load_config
from stn_cli.datasets import loader
from stn_cli.datasets.build import build_scene, build_source
from stn_cli.datasets.loader import BatchLoader, TrainingStream
from stn_cli.models.build import build_model
from stn_cli.models.network import Network
from stn_cli.training.data import input_spec
from stn_cli.training.optimiser import Optimiser
from stn_cli.training.runtime import Runtime
from stn_cli.training.step import TrainStep

CUDA = torch.device("cuda", 0)
BATCH = 8
SGD, ADAM = torch.ops.aten._fused_sgd_.tensor_lr, torch.ops.aten._fused_adam_.tensor_lr


class Generator(torch.Generator):
    """One of a CUDA device that is not there."""

    @property
    def device(self) -> torch.device:
        return CUDA

    def get_offset(self) -> int:
        return 4


def backward(loss: Tensor) -> None:
    """Do what the engine of autograd does, which would ask the driver for the device."""
    nodes, stack, seen = [], [(loss.grad_fn, False)], set()
    while stack:
        node, is_done = stack.pop()
        if is_done:
            nodes.append(node)
        elif node not in seen:
            seen.add(node)
            stack += [(node, True), *((before, False) for before, _ in node.next_functions if before is not None)]
    gradients: dict[Any, dict[int, Tensor]] = defaultdict(dict)
    gradients[loss.grad_fn][0] = torch.ones_like(loss)
    with torch.no_grad():
        for node in reversed(nodes):
            given = gradients.pop(node)
            if hasattr(node, "variable"):  # a weight; its gradient is laid out as it is
                node.variable.grad = torch.empty_like(node.variable).copy_(given[0])
                continue
            passed = node(*[given.get(i) for i in range(max(given) + 1)])
            passed = passed if isinstance(passed, tuple) else (passed,)
            for (before, i), gradient in zip(node.next_functions, passed, strict=True):
                if before is not None and gradient is not None:
                    wanted = before._input_metadata[i]
                    fitting = gradient.sum_to_size(wanted.shape).to(wanted.dtype)
                    known = gradients[before]
                    known[i] = known[i] + fitting if i in known else fitting


class Watch(TorchDispatchMode):
    """Notes operations that bring something from the host to the device or back, and counts updates."""

    def __init__(self) -> None:
        super().__init__()
        self.crossings: list[str] = []
        self.updates = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = tree_leaves((args, kwargs or {}))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        places = {leaf.device.type for leaf in tensors} | {x.type for x in leaves if isinstance(x, torch.device)}
        if len(places - {"meta"}) > 1:
            self.crossings.append(f"{func} of {[(t.device.type, tuple(t.shape)) for t in tensors]}")
        if func in (SGD, ADAM):  # which have no fake
            return self._update(*args, **(kwargs or {}))
        if tensors and not any(isinstance(tensor, FakeTensor) for tensor in tensors) and "cuda" not in places:
            with _disable_current_modes():  # constants of the host have values
                return func(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _update(self, weights: Any, gradients: Any, *state: Any, **named: Any) -> None:
        """Hold what the kernels of CUDA demand. `state`: of Adam two means, nothing, and the steps."""
        self.updates += len(weights)
        assert named["lr"].dtype == named["found_inf"].dtype == torch.float32
        assert not named.get("is_first_step")
        alike, steps = (state[:2], state[3]) if len(state) == 4 else (state, [])
        assert all((step.dtype, step.shape) == (torch.float32, ()) for step in steps)
        for others in (gradients, *filter(None, alike)):
            for weight, other in zip(weights, others, strict=True):
                assert (other.dtype, other.shape, other.stride()) == (weight.dtype, weight.shape, weight.stride())


@pytest.fixture
def _as_if_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(loader, "device_generator", lambda *_: Generator())
    monkeypatch.setattr(torch.Tensor, "backward", backward)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def on_device(network: Network, layout: torch.memory_format) -> Network:
    """Return the network with fake weights in place of its own."""
    for module in network.modules():
        for name, value in module._parameters.items():
            assert value is not None
            fitting = layout if value.ndim == 4 else torch.contiguous_format
            module._parameters[name] = Parameter(torch.empty_like(value, device=CUDA, memory_format=fitting))
        for name, value in module._buffers.items():
            module._buffers[name] = torch.empty_like(value, device=CUDA)
    return network


def watched(config: RunConfig) -> tuple[Watch, int]:
    """Return what was seen of a step, after one before it, and the number of weights."""
    with _disable_current_modes():
        source = build_source(config.data)
        scene = build_scene(config.distortion, source)
        network = build_model(config.model, input_spec(source, scene), 0)
    runtime = Runtime(CUDA, config.runtime.precision, "", captured=True)
    lies = BatchLoader(source.train, scene, CUDA, own=torch.arange(len(source.train)))
    stream = TrainingStream(lies, BATCH, 0)
    network = on_device(network, runtime.memory_format)
    optimiser = Optimiser(network, config.train)
    step = TrainStep(network, optimiser, config.train, 100, runtime)
    index = torch.zeros(BATCH, dtype=torch.int64, device=CUDA)
    rates = torch.zeros(len(optimiser.groups), device=CUDA)
    for _ in range(2):
        with Watch() as watch:
            step.update(stream.make(index), rates)
    return watch, len(list(network.parameters()))


DISTORTIONS = {kind: [f"distortion.kind={kind}"] for kind in ("none", "R", "RTS", "P", "E", "T", "TC", "addition")}
DISTORTIONS["chain"] = ["distortion.kind=chain", "distortion.stages=[{kind: E}, {kind: P}, {kind: T}, {kind: RTS}]"]
MODELS = {"cnn": [], "fcn": []} | {
    f"{model} {transform}": [f"model.transform={transform}"]
    for model in ("st-cnn", "st-fcn")
    for transform in ("attention", "similarity", "affine", "projective", "tps")
}
SERIES = "{at: input, transform: tps, antialias: true, out_size: [21, 21]}, {at: conv2, feed_theta: true, rate: 0.5}"
MODELS["cnn with several transformers"] = [f"model.transformers=[{SERIES}]"]
MODELS["cnn with parallel transformers"] = ["model.transformers=[[{at: input}, {at: input, transform: projective}]]"]
SETTINGS = ("data.dataset=digits", f"train.batch_size={BATCH}", "model.parameters=600000")


@pytest.mark.usefixtures("_as_if_cuda")
@pytest.mark.parametrize("distortion", DISTORTIONS.values(), ids=DISTORTIONS)
def test_no_distortion_does(distortion: list[str]):
    watch, weights = watched(load_config(None, [*SETTINGS, *distortion, "runtime.precision=bf16"]))
    assert watch.crossings == []
    assert watch.updates == weights


@pytest.mark.usefixtures("_as_if_cuda")
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize(("model", "settings"), MODELS.items(), ids=MODELS)
def test_no_network_does(model: str, settings: list[str], precision: str):
    name = f"model.name={model.partition(' ')[0]}"
    watch, weights = watched(load_config(None, [*SETTINGS, name, *settings, f"runtime.precision={precision}"]))
    assert watch.crossings == []
    assert watch.updates == weights


@pytest.mark.usefixtures("_as_if_cuda")
@pytest.mark.parametrize("recipe", [["train.recipe=paper"], ["train.momentum=0", "train.nesterov=false"]])
def test_no_recipe_does(recipe: list[str]):
    watch, weights = watched(load_config(None, [*SETTINGS, *recipe, "runtime.precision=float32"]))
    assert watch.crossings == []
    assert watch.updates == weights


@pytest.mark.usefixtures("_as_if_cuda")
def test_the_watch_sees_what_it_has_to():
    here, there = torch.zeros(3, device=CUDA), torch.zeros(3, device="cpu")
    for crossing in (
        lambda: here.to("cpu"),
        lambda: there.to(CUDA),
        lambda: here.copy_(there),
        lambda: torch.tensor([1.0, 2.0], device=CUDA),
        lambda: here.new_tensor([1.0, 2.0]),
    ):
        with Watch() as watch:
            crossing()
        assert len(watch.crossings) == 1
    for look in (lambda: here.sum().item(), lambda: here[here > 0], lambda: bool(here.any()), lambda: here + there):
        with pytest.raises((RuntimeError, torch._subclasses.fake_tensor.DynamicOutputShapeException)), Watch():
            look()
