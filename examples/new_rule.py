"""A rule of your own, used in a plain training loop and from the command line.

    python examples/new_rule.py                                      # one step in a plain loop
    python examples/new_rule.py method=skipping dataset=digits K=4   # takes all arguments of run.py

A package that declares the entry point `skipping = "my_package:Skipping"` in the group `localsl.methods` makes
`python run.py method=skipping` work without this script.
"""

import sys
from dataclasses import dataclass, replace

import torch
from torch import nn

import localsl
from localsl.core.objectives import Objective


@localsl.register
@dataclass(kw_only=True)
class Skipping(localsl.HeadMethod):
    """DGL with a loss at every n-th module only, whose gradients reach back over the modules before it."""

    every: int = 2

    def objectives(self, plan):
        *local, last = super().objectives(plan)
        objectives, begin = [], 0
        for module, objective in enumerate([*local, last]):
            if module < len(local) and (module + 1) % self.every:
                objectives.append(Objective([]))  # this module is trained by a later one's loss
                continue
            objectives.append(Objective([replace(part, span=module - begin + 1) for part in objective.parts]))
            begin = module + 1
        return objectives


def plain_loop() -> list[float]:
    """The losses of one training step on noise, one for every second module."""
    blocks = [nn.Sequential(nn.Conv2d(8 if i else 1, 8, 3, padding=1), nn.ReLU()) for i in range(4)]
    model = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    images, targets = torch.randn(16, 1, 8, 8), torch.randint(10, (16,))
    network = localsl.localize(model, method=Skipping(every=2), K=4, num_classes=10, example=images)
    losses = []
    for loss in network.local_losses(images, targets):
        loss.total.backward()
        losses.append(float(loss.total.detach()))
    return losses


if __name__ == "__main__":
    if len(sys.argv) > 1:
        from localsl.cli.main import main

        main()
    else:
        print("losses:", *(f"{loss:.2f}" for loss in plain_loop()))
