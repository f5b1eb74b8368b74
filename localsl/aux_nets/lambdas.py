"""InfoPro's published loss weights: (reconstruction first, ce first, reconstruction last, ce last)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from localsl.settings import Config

Lambdas = tuple[float, float, float, float]

# InfoPro's own commands, found for its contrastive loss; none is published for softmax.
PUBLISHED: dict[tuple[str, str, str], dict[int, Lambdas]] = {
    ("cifar10", "resnet32", "depth"): {
        2: (5, 1, 0, 0),
        4: (6, 0, 1, 2),
        8: (5, 0, 0, 2),
        16: (5, 0.05, 0.2, 0.5),
    },
    ("cifar10", "resnet110", "depth"): {
        2: (5, 0.5, 0, 0),
        4: (1, 0, 0, 1),
        8: (5, 0, 0, 1),
        16: (5, 0, 0.5, 1),
    },
    ("cifar10", "resnet110", "memory"): {2: (5, 0.1, 0, 0), 3: (5, 0, 5, 0.1), 4: (5, 0, 5, 0.1)},
    ("stl10", "resnet110", "depth"): {
        2: (10, 1, 0, 0),
        4: (20, 0.2, 5, 2),
        8: (20, 0.2, 5, 1),
        16: (20, 0.5, 10, 0.1),
    },
    ("stl10", "resnet110", "memory"): {2: (20, 1, 0, 0), 3: (20, 0.5, 5, 2), 4: (20, 0.5, 10, 1)},
    ("svhn", "resnet110", "depth"): {
        2: (1, 0.1, 0, 0),
        4: (5, 0, 0.5, 1),
        8: (5, 0, 0.5, 2),
        16: (5, 0.2, 0.5, 1),
    },
}

# AugLocal's InfoPro baseline, one per network for all data sets; on ImageNet InfoPro's own at K=2, where they
# weigh one module.
PER_BACKBONE: dict[str, Lambdas] = {
    "resnet32": (5, 0.05, 0.2, 0.5),
    "resnet110": (5, 0, 0.5, 1),
    "resnet152": (5, 1, 5, 1),
}

# Of other networks, by scale: ResNet-32's, and ResNet-101's and ResNeXt-101's.
PER_SCALE: dict[str, Lambdas] = {"cifar": PER_BACKBONE["resnet32"], "imagenet": (5, 0.75, 5, 0.75)}

# The released MAN's and MLAAN's for every data set, network and K: of their READMEs, on ImageNet of MAN's code.
RELEASED: dict[str, Lambdas] = {"cifar": (5, 0.5, 0, 0), "imagenet": (5, 0.75, 5, 0.75)}


def published(cfg: Config) -> Lambdas:
    """InfoPro's own for the data set, backbone, cuts and K; where it has none, AugLocal's for the backbone."""
    key = (cfg.dataset.name, cfg.backbone.name, cfg.partition.balance)
    assert cfg.aux.scale is not None
    fallback = PER_BACKBONE.get(cfg.backbone.name, PER_SCALE[cfg.aux.scale])
    return PUBLISHED.get(key, {}).get(cfg.K, fallback)


def released(cfg: Config) -> Lambdas:
    """What the released MAN and MLAAN take."""
    assert cfg.aux.scale is not None
    return RELEASED[cfg.aux.scale]
