import pytest
import torch
from torch import Tensor, nn

from stn_cli.models.classifiers import convolutional_classifier, fully_connected_classifier
from stn_cli.models.grid_generators import TRANSFORMS, AffineGrid
from stn_cli.models.localisation import convolutional_localisation
from stn_cli.models.network import Network, Normalise, initialise
from stn_cli.models.place import Member, Place
from stn_cli.models.spatial_transformer import SpatialTransformer

NORMALISE = Normalise(torch.tensor([0.1307]), torch.tensor([0.3081]))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def network(transform: str | None = "affine", size: tuple[int, int] = (28, 28)) -> Network:
    places = {}
    if transform is not None:
        generator = TRANSFORMS[transform](size)
        transformer = SpatialTransformer(convolutional_localisation(1, size, generator.identity), generator)
        places["input"] = Place("input", [[Member(transformer)]])
    classifier = convolutional_classifier(1, size, 10, (4, 5))
    made = Network(normalise=NORMALISE, classifier=classifier, places=places)
    initialise(made, torch.Generator().manual_seed(0))
    return made


def seen_by(module: nn.Module) -> list[Tensor]:
    """What a module is given, call by call, from now on."""
    inputs: list[Tensor] = []
    module.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    return inputs


def test_normalisation_is_per_channel() -> None:
    images, mean, std = random(2, 3, 4, 5), torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 2.0, 4.0])
    found = Normalise(mean, std)(images)
    for channel in range(3):
        torch.testing.assert_close(found[:, channel], (images[:, channel] - mean[channel]) / std[channel])


def test_without_a_transformer_it_classifies_normalised_images() -> None:
    plain, images = network(None), random(3, 1, 28, 28)
    logits, warps = plain(images)
    assert warps == ()
    assert torch.equal(logits, plain.classifier(NORMALISE(images)))


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_transformer_at_the_identity_changes_nothing(transform: str) -> None:
    with_one, images = network(transform), random(3, 1, 28, 28)
    logits, (warp,) = with_one(images)
    torch.testing.assert_close(warp.output, images, atol=1e-5, rtol=0)
    torch.testing.assert_close(logits, with_one.classifier(NORMALISE(images)), atol=1e-3, rtol=0)


def test_outside_of_the_warp_the_classifier_sees_exactly_normalised_black() -> None:
    """Half the grid lies right of the image, the rest shows its right half: no grey frame between."""
    made, images = network(), 0.5 + 0.5 * random(3, 1, 28, 28)
    (transformer,) = made.by_place["input"].transformers
    with torch.no_grad():
        transformer.localisation[-1].bias.copy_(torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 0.0]))
    seen = seen_by(made.classifier[0])
    made(images)
    black = NORMALISE(torch.zeros(1, 1, 1, 1)).item()
    assert (seen[0][..., 15:] == black).all()  # column 14 reads at the edge, up to rounding
    torch.testing.assert_close(seen[0][..., :14], NORMALISE(images)[..., 14:], atol=1e-4, rtol=0)


def test_the_sampler_reads_raw_images_and_the_localisation_network_normalised_ones() -> None:
    made, images = network(), random(3, 1, 28, 28)
    (transformer,) = made.by_place["input"].transformers
    raw, viewed = seen_by(transformer), seen_by(transformer.localisation)
    made(images)
    assert raw[0] is images
    assert torch.equal(viewed[0], NORMALISE(images))


@pytest.mark.parametrize("transform", [None, *TRANSFORMS])
def test_logits_are_float32_and_near_under_bf16(transform: str | None) -> None:
    made, images = network(transform), random(3, 1, 28, 28)
    expected = made(images).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = made(images).logits
    assert expected.dtype == found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=0.05 * expected.abs().max().item(), rtol=0)


def test_statistics_travel_with_the_weights_and_spline_matrices_do_not() -> None:
    names = network("tps").state_dict().keys()
    assert {"normalise.mean", "normalise.std"} <= names
    assert not any("basis" in name for name in names)


def test_initialise_draws_he_normal_weights_and_zero_biases() -> None:
    module = fully_connected_classifier(1, (28, 28), 10, (400, 300))
    initialise(module, torch.Generator().manual_seed(0))
    for layer in module:
        if isinstance(layer, nn.Linear):
            assert layer.weight.std().item() == pytest.approx((2 / layer.in_features) ** 0.5, rel=0.05)
            assert not layer.bias.any()


def test_initialise_leaves_theta_layers_at_the_identity_and_draws_from_its_generator_alone() -> None:
    before = torch.get_rng_state()
    localisation = convolutional_localisation(1, (28, 28), AffineGrid((28, 28)).identity)
    torch.set_rng_state(before)
    initialise(localisation, torch.Generator().manual_seed(0))
    assert not localisation[-1].weight.any()
    assert torch.equal(localisation[-1].bias, AffineGrid((28, 28)).identity)
    assert torch.equal(torch.get_rng_state(), before)
    again = convolutional_localisation(1, (28, 28), AffineGrid((28, 28)).identity)
    initialise(again, torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(localisation.parameters(), again.parameters(), strict=True))
