"""A network of your own in a plain training loop: backpropagation and AugLocal on scikit-learn's digits.

python examples/own_model.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import localsl


class Residual(nn.Module):
    """A residual block of two convolutions and a shortcut."""

    def __init__(self, c_in: int, c_out: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, padding=1)
        self.norm = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.shortcut = nn.Conv2d(c_in, c_out, 1, stride)

    def forward(self, x):
        return F.relu(self.conv2(F.relu(self.norm(self.conv1(x)))) + self.shortcut(x))


class Digits(nn.Module):
    """A small residual network for 8x8 images of one channel."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.one, self.two = Residual(16, 16, 1), Residual(16, 32, 2)
        self.three, self.four = Residual(32, 32, 1), Residual(32, 64, 2)
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        x = self.four(self.three(self.two(self.one(F.relu(self.stem(x))))))
        return self.head(x.mean((2, 3)))


def train(method: localsl.Method, epochs: int = 6) -> float:
    """Train with a method and return the test accuracy in per cent."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    targets = torch.tensor(digits.target)
    test = torch.arange(len(targets)) % 5 == 0
    train_images, train_targets = images[~test], targets[~test]

    torch.manual_seed(0)
    model = Digits()
    network = localsl.localize(
        model, method=method, cuts=["one", "two", "three"], num_classes=10, example=images[:2]
    )
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for _ in range(epochs):
        network.train()
        for batch in torch.randperm(len(train_targets)).split(64):
            optimizer.zero_grad()
            for loss in network.local_losses(train_images[batch], train_targets[batch]):
                loss.total.backward()  # frees this module's graph before the next one runs
            network.update_ema()
            optimizer.step()
    model.eval()  # the trained model runs on its own, without auxiliary networks
    with torch.no_grad():
        return 100 * float((model(images[test]).argmax(1) == targets[test]).float().mean())


if __name__ == "__main__":
    print(localsl.trace(Digits(), torch.zeros(2, 1, 8, 8)))
    for method in (localsl.BP(), localsl.AugLocal(depth=2)):
        print(f"{type(method).__name__:>8}  {train(method):.1f} % of the test images")
