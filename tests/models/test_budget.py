import pytest
import torch
from torch import nn

from stn_cli.models.budget import count_parameters, layer_widths, solve_widths
from stn_cli.models.classifiers import CLASSIFIERS, Widths, convolutional_classifier, fully_connected_classifier


def fcn_cost(widths: Widths) -> int:
    first, second = widths
    return 784 * first + first + first * second + second + 10 * second + 10


def cnn_cost(widths: Widths) -> int:
    first, second = widths
    return 81 * first + first + 49 * first * second + second + 10 * 4 * second + 10


COSTS = {"fcn": fcn_cost, "cnn": cnn_cost}


def test_only_what_is_learned_counts() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    module[2].weight.requires_grad_(False)
    assert count_parameters(module) == 3 * 4 + 4 + 2 * 4 + 2


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("budget", [1, 1_000, 5_000, 30_000, 123_456, 400_000])
def test_widths_are_the_nearest_of_all_that_differ_by_one_at_most(name: str, budget: int) -> None:
    found = solve_widths(lambda widths: CLASSIFIERS[name](1, (28, 28), 10, widths), budget)
    candidates = [(half // 2, half - half // 2) for half in range(2, 1200)]
    assert found in candidates
    nearest = min(abs(COSTS[name](widths) - budget) for widths in candidates)
    assert abs(COSTS[name](found) - budget) == nearest


def test_nothing_is_allocated_and_nothing_drawn_while_it_is_solved() -> None:
    devices = []

    def build(widths: Widths) -> nn.Module:
        devices.append(torch.empty(0).device.type)
        return fully_connected_classifier(1, (28, 28), 10, widths)

    before = torch.get_rng_state()
    solve_widths(build, 10**9)
    assert set(devices) == {"meta"}
    assert torch.equal(torch.get_rng_state(), before)


def test_layer_widths_are_units_and_filters_in_order() -> None:
    assert layer_widths(convolutional_classifier(1, (28, 28), 10, (5, 6))) == (5, 6, 10)
    assert layer_widths(fully_connected_classifier(1, (28, 28), 11, (7, 8))) == (7, 8, 11)
