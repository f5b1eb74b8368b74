"""Display names for abbreviations in configurations, labels and columns."""

from __future__ import annotations

import re

RULES = {"bp": "BP", "dgl": "DGL", "predsim": "PredSim", "infopro": "InfoPro", "auglocal": "AugLocal"}
RULES |= {"man": "MAN", "mlaan": "MLAAN", "lam": "LAM", "mlm": "MLM", "bp_checkpoint": "BP, checkpointed"}
RULES |= {"man_released": "MAN, released form", "mlaan_released": "MLAAN, released form"}
RULES |= {"predsim_original": "PredSim, original form"}

DATASETS = {"cifar10": "CIFAR-10", "svhn": "SVHN", "stl10": "STL-10", "imagenet": "ImageNet", "coco": "COCO"}
DATASETS |= {"digits": "digits"}

BACKBONES = {"maskrcnn_resnet34": "Mask R-CNN, ResNet-34", "resnext101_32x8d": "ResNeXt-101 32x8d"}
BACKBONES |= {
    "efficientnetb0": "EfficientNet-B0",
    "mobilenetv2": "MobileNetV2",
    "regnetx_400mf": "RegNetX-400MF",
}

METRICS = {
    "test_error_pct": "test error (%)",
    "top1_error_pct": "top-1 error (%)",
    "top5_error_pct": "top-5 error (%)",
    "top1_acc_pct": "test accuracy (%)",
    "top5_acc_pct": "top-5 accuracy (%)",
    "gpu_memory_gb": "GPU memory (GB)",
    "flops_g": "multiply-adds (G)",
    "wallclock_overhead_pct": "extra time (%)",
}
UNITS = {"_pct": " (%)", "_gb": " (GB)", "_g": " (G)"}


def rule(label: str) -> str:
    """The display name of a series: "MAN on DGL" for "man dgl", "AugLocal d=4" for "auglocal d=4"."""
    words = re.sub(r"aux\.depth=", "d=", label).split(" ")
    first, *rest = words
    base = [f"on {RULES[word]}" if word in RULES else word for word in rest]
    stem = first.rstrip(",")
    return " ".join([RULES.get(stem, stem) + first[len(stem) :], *base])


def dataset(name: str) -> str:
    """The display name of a data set."""
    return DATASETS.get(name, name)


def backbone(name: str) -> str:
    """The display name of a backbone: ResNet-32 for resnet32."""
    known = re.fullmatch(r"(resnet|vgg)(\d+)", name)
    stems = {"resnet": "ResNet", "vgg": "VGG"}
    return f"{stems[known[1]]}-{known[2]}" if known else BACKBONES.get(name, name)


def metric(name: str) -> str:
    """The display name of a metric, with its unit."""
    if name in METRICS:
        return METRICS[name]
    for ending, unit in UNITS.items():
        if name.endswith(ending):
            return name.removesuffix(ending).replace("_", " ") + unit
    return name.replace("_", " ")


def of(key: str, value: str) -> str:
    """The display name of a value in a key column."""
    words = {"dataset": dataset, "backbone": backbone, "method": rule, "base": rule, "metric": metric}
    return words[key](value) if key in words and value else value
