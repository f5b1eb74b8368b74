"""A network of timm, cut into four modules with a frozen stem and trained by MAN on DGL in a plain loop.

python examples/timm_finetune.py [NAME]   # a network of timm, by default resnet10t
"""

import sys

import timm
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

import localsl


def finetune(name: str, steps: int = 30) -> tuple[float, float]:
    """Train, and return the mean loss of the network's output over the first and over the last five steps."""
    digits = load_digits()
    small = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    images = F.interpolate(small, size=32).expand(-1, 3, -1, -1)
    targets = torch.tensor(digits.target)

    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10)  # pretrained=True where the weights can be fetched
    network = localsl.localize(model, method=localsl.MAN(), K=4, num_classes=10, example=images[:2])
    for layer in network.backbone.layers[:1]:
        layer.requires_grad_(False)
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    outputs = []
    for batch in torch.randperm(len(targets))[: 32 * steps].split(32):
        optimizer.zero_grad()
        for loss in network.local_losses(images[batch], targets[batch]):
            loss.total.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        network.update_ema()
        optimizer.step()
        outputs.append(float(loss.total.detach()))  # the last module's loss is that of the network's output
    return sum(outputs[:5]) / 5, sum(outputs[-5:]) / 5


if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) > 1 else "resnet10t"
    before, after = finetune(name)
    print(f"{name}: output loss {before:.2f} in the first steps, {after:.2f} in the last")
