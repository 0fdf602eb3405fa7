"""PyTorch's "Spatial Transformer Networks Tutorial" (pytorch.org, G. Hamrouni), written anew, as people run it.

Its network, and what such scripts have around it: a DataLoader with two workers, torchvision's RandomRotation, ToTensor
and Normalize on PIL images, SGD, float32.
"""

import os
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stn_cli.datasets.source import Source
from stn_cli.training.speed import synchronise

WARM_UP = 20  # batches before the clock starts, more than the workers make ahead
MEAN, STD = 0.1307, 0.3081


class TutorialNetwork(nn.Module):
    """The tutorial's network: a transformer on normalised images, two convolutions, log-probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 10, 5)
        self.conv2 = nn.Conv2d(10, 20, 5)
        self.drop = nn.Dropout2d()
        self.fc1 = nn.Linear(320, 50)
        self.fc2 = nn.Linear(50, 10)
        self.localisation = nn.Sequential(
            nn.Conv2d(1, 8, 7), nn.MaxPool2d(2, 2), nn.ReLU(), nn.Conv2d(8, 10, 5), nn.MaxPool2d(2, 2), nn.ReLU()
        )
        self.theta = nn.Sequential(nn.Linear(90, 32), nn.ReLU(), nn.Linear(32, 6))
        self.theta[2].weight.data.zero_()
        self.theta[2].bias.data.copy_(torch.tensor([1.0, 0, 0, 0, 1, 0]))

    def forward(self, images: Tensor) -> Tensor:
        """Return log-probabilities, [n, 10]."""
        theta = self.theta(self.localisation(images).flatten(1)).view(-1, 2, 3)
        x = F.grid_sample(images, F.affine_grid(theta, images.size(), align_corners=False), align_corners=False)
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.drop(self.conv2(x)), 2))
        x = F.relu(self.fc1(x.flatten(1)))
        return F.log_softmax(self.fc2(F.dropout(x, training=self.training)), dim=1)


def tutorial_speed(batch_size: int, seconds: float, device: torch.device, load_source: Callable[[], Source]) -> float:
    """Return images per second of the tutorial's script, on MNIST where STN_DATA names it, else on another source."""
    from torchvision import datasets, transforms

    steps = [transforms.RandomRotation(90), transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))]
    transform = transforms.Compose(steps)
    if "STN_DATA" in os.environ:
        data = datasets.MNIST(os.environ["STN_DATA"], train=True, transform=transform)
    else:
        data = PilImages(load_source(), transform)
    loader = torch.utils.data.DataLoader(data, batch_size=batch_size, shuffle=True, num_workers=2)
    network = TutorialNetwork().train().to(device)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01)
    done, began = -WARM_UP, 0.0
    while True:
        for images, targets in loader:
            if done == 0:
                began = time.perf_counter()
            optimiser.zero_grad()
            F.nll_loss(network(images.to(device)), targets.to(device)).backward()
            optimiser.step()
            done += 1
            if done > 0 and time.perf_counter() - began > seconds:
                synchronise(device)
                return done * batch_size / (time.perf_counter() - began)


class PilImages(torch.utils.data.Dataset):
    """Images of a source as torchvision's MNIST gives them."""

    def __init__(self, source: Source, transform: Any) -> None:
        self.images, self.targets, self.transform = source.train.images[:, 0], source.train.targets, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.images[i].numpy())), int(self.targets[i])
