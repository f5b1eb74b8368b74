"""The analyses of runs of one backbone and data set: each function returns the rows of its CSV.

A row begins with columns that describe its run (`Trained.columns`) and ends with settings that affect its figures.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from tqdm import tqdm

from localsl.analysis import cka, convergence, feature_maps, probes, pyramid
from localsl.analysis.layers import BATCH, normalised
from localsl.analysis.runs import Trained, mixed, refused
from localsl.core.settings import ConfigError, Problem
from localsl.data import loading
from localsl.data.pictures import in_memory
from localsl.runs import identity, provenance

if TYPE_CHECKING:
    from torch import Tensor

    from localsl.config.command import AnalysisConfig

Row = dict[str, Any]
T = TypeVar("T")


def similarity(runs: Sequence[Trained], settings: AnalysisConfig, device: torch.device) -> list[Row]:
    """CKA of each run's layers with those of the first run of backpropagation.

    Further runs of backpropagation are compared with the first one too.

    Raises:
        ConfigError: if there is no run of backpropagation, or no other run.
    """
    reference = next((run for run in runs if run.cfg.method.single_module), None)
    others = [run for run in runs if run is not reference]
    if reference is None:
        cfg = runs[0].cfg
        command = f"python run.py method=bp dataset={cfg.dataset.name} backbone={cfg.backbone.name}"
        instead = f"train one by {command}, with the same images and schedule, and add it to runs"
        raise refused("similarity is to backpropagation, and none of the runs trains with it", instead)
    if not others:
        raise refused("there is no run to compare with backpropagation", "add a local rule's")
    split = in_memory(mixed(loading.load(reference.cfg).test, settings.images))
    batches = [normalised(run.cfg, split, device, settings.batch) for run in (reference, *others)]
    steps = -(-len(split) // settings.batch) if settings.batch else 1
    found = cka.similarities(
        reference.network(device),
        [run.network(device) for run in others],
        _with_progress(zip(*batches, strict=True), steps),
        cka.biased_hsic if settings.biased else cka.unbiased_hsic,
    )
    names = layer_names(reference)
    used = {"reference": reference.record["id"], "estimate": "biased" if settings.biased else "unbiased"}
    used |= {"images": len(split), "batch": settings.batch or len(split)}
    rows = []
    for run, values in zip(others, found, strict=True):
        layers = [*enumerate(zip(names, values, strict=True)), ("mean", ("", statistics.fmean(values)))]
        for layer, (name, value) in layers:
            rows.append(run.columns() | {"layer": layer, "name": name, "cka": f"{value:.4f}"} | used)
    return rows


def separability(runs: Sequence[Trained], settings: AnalysisConfig, device: torch.device) -> list[Row]:
    """Accuracy of a linear probe after each layer of each run."""
    rows = []
    for run in _with_progress(runs, len(runs)):
        images = loading.load(run.cfg)
        network = run.network(device)
        parts = []
        for split in (images.train, images.test):
            features = probes.pooled(network, normalised(run.cfg, split, device, BATCH))
            parts.append([(x, split.targets.to(device)) for x in features])
        used = {"test_images": len(images.test), "iterations": settings.iterations, "penalty": settings.penalty}
        recipe = (run.cfg.dataset.num_classes, settings.iterations, settings.penalty)
        for layer, (train, test) in enumerate(zip(*parts, strict=True)):
            fit, held_out = probes.separability(train, test, *recipe)
            found = {"layer": layer, "name": network.names[layer]}
            found |= {"probe_train_accuracy": f"{fit:.2f}", "probe_test_accuracy": f"{held_out:.2f}"}
            rows.append(run.columns() | found | used)
    return rows


def pictures(runs: Sequence[Trained], settings: AnalysisConfig, device: torch.device) -> list[Row]:
    """The brightness of chosen images, and their feature maps after chosen layers of each run.

    Raises:
        ConfigError: if there is no such image or layer.
    """
    test = loading.load(runs[0].cfg).test
    names = layer_names(runs[0])
    layers = feature_maps.ends_of_stages(names) if settings.layers is None else settings.layers
    _check_among("analysis.pictures", settings.pictures, len(test), "test images")
    _check_among("analysis.layers", layers, len(names), f"local layers of {runs[0].cfg.backbone.name}")
    chosen = in_memory(test[torch.tensor(settings.pictures)])
    blank = dict.fromkeys(runs[0].columns(), "") | {"label": "image", "dataset": runs[0].cfg.dataset.name}
    brightness = chosen.images.float().mean(1)
    rows = [blank | row for row in _maps(settings.pictures, chosen.targets, "", "", brightness)]
    for run in _with_progress(runs, len(runs)):
        (images,) = normalised(run.cfg, chosen, device, None)
        for layer, values in zip(layers, feature_maps.maps(run.network(device), images, layers), strict=True):
            found = _maps(settings.pictures, chosen.targets, layer, names[layer], values)
            rows += [run.columns() | row for row in found]
    return rows


def _maps(chosen: Sequence[int], classes: Tensor, layer: Any, name: str, values: Tensor) -> Iterator[Row]:
    for index, target, picture in zip(chosen, classes.tolist(), values.cpu(), strict=True):
        height, width = picture.shape
        numbers = " ".join(f"{value:.4g}" for value in picture.flatten().tolist())
        where = {"picture": index, "class": target, "layer": layer, "name": name}
        yield where | {"height": height, "width": width, "values": numbers}


def curves(runs: Sequence[Trained], settings: AnalysisConfig, device: torch.device) -> list[Row]:
    """A row for each epoch of each run, from its metrics.csv; no checkpoint is needed.

    Raises:
        ConfigError: if a run has no metrics.csv.
    """
    for run in runs:
        if not (run.folder / "metrics.csv").exists():
            raise refused(f"{run.folder} has no metrics.csv", "give the folder that the run itself wrote")
    return [run.columns() | row for run in runs for row in convergence.curve(run.folder / "metrics.csv")]


def savings(runs: Sequence[Trained], settings: AnalysisConfig, device: torch.device) -> list[Row]:
    """Accuracy and the multiply-adds that the pyramid saves, from records; no checkpoint is needed.

    Raises:
        ConfigError: if a run has no auxiliary networks with a depth d, and so no pyramid.
    """
    rows, known = [], {}
    for run in runs:
        aux = run.cfg.aux
        if aux.depth is None:
            what = f"{run.folder} is of {run.cfg.method.name}, whose networks have no depth d"
            raise refused(what, "give runs of method=auglocal")
        name = identity.cell_id(run.cfg)
        if name not in known:
            known[name] = (*pyramid.multiply_adds(run.cfg), pyramid.reduction(run.cfg))
        network, auxiliary, saved = known[name]
        found = {"depth": aux.depth, "tau": aux.pyramid, "network_gmacs": f"{network / 1e9:.4f}"}
        found |= {"aux_gmacs": f"{auxiliary / 1e9:.4f}", "reduction_pct": f"{saved:.1f}"}
        rows.append(run.columns() | found)
    return rows


def tradeoff(runs: Sequence[Trained], settings: AnalysisConfig, device: torch.device) -> list[Row]:
    """Test error at the last epoch, also top-5 if available, and peak memory of a training step in bytes.

    They are read from records; no checkpoint is needed.

    Raises:
        ConfigError: if the memory of a run was not measured, or not in the same way as that of the first run.
    """
    rows = []
    for run in runs:
        record = run.record
        peak, scope = record["peak_memory_bytes"], record["peak_memory_scope"]
        if peak is None:
            raise refused(f"the memory of {run.folder} was not measured", "leave that run out")
        if rows and scope != rows[0]["scope"]:
            what = f"memory is {scope} in {run.folder}, {rows[0]['scope']} in {runs[0].folder}"
            raise refused(what, "give runs of one kind of device")
        last = record["last"]
        found = {"test_error": f"{100 - last['test_accuracy']:.2f}", "peak_memory_bytes": peak}
        if "test_top5_accuracy" in last:
            found["top5_error"] = f"{100 - last['test_top5_accuracy']:.2f}"
        found |= {"modules": record["modules"], "batch_size": run.cfg.batch_size, "lr": run.cfg.optimizer.lr}
        found |= {"precision": record["precision"], "seconds": round(record["seconds"])}
        found |= {"threads": record["threads"], "scope": scope, "device": record["device"]}
        rows.append(run.columns() | found | {"commit": provenance.short(record["commit"])})
    return rows


def accuracies(runs: Sequence[Trained], settings: AnalysisConfig, device: torch.device) -> list[Row]:
    """Test accuracy at the last epoch, from records; no checkpoint is needed."""
    return [run.columns() | {"modules": run.record["modules"]} for run in runs]


def grid(runs: Sequence[Trained], settings: AnalysisConfig, device: torch.device) -> list[Row]:
    """Test accuracy of each run and the value of the field `analysis.across`, from records.

    The accuracy is that at the last epoch, at the best, and, if there are validation images, at the epoch that they
    select. No checkpoint is needed.

    Raises:
        ConfigError: if the field has no numbers.
    """
    across, rows = settings.across or "", []
    for run in runs:
        value = dict(identity.leaves(asdict(run.cfg))).get(across)
        if across == "K" and run.cfg.method.single_module:
            value = 1
        if isinstance(value, bool) or not isinstance(value, int | float):
            what = f"must be a field that is a number in every run; in {run.folder} it is {value}"
            raise ConfigError([Problem("analysis.across", across, what, "type analysis.across=K, for example")])
        label = " ".join(word for word in run.label.split() if not word.startswith(f"{across}="))
        found = {"label": label, "across": across, "value": value}
        found |= {"best_accuracy": f"{run.record['best']['test_accuracy']:.2f}"}
        selected = run.record.get("selected")
        if selected is not None:
            found |= {"selected_epoch": selected["epoch"]}
            found |= {
                f"selected_{part}": f"{selected[f'{part}_accuracy']:.2f}" for part in ("validation", "test")
            }
        rows.append(run.columns() | found)
    return rows


KINDS: dict[str, Callable[[Sequence[Trained], AnalysisConfig, torch.device], list[Row]]] = {
    "cka": similarity,
    "probes": separability,
    "feature_maps": pictures,
    "convergence": curves,
    "pyramid": savings,
    "tradeoff": tradeoff,
    "accuracy": accuracies,
    "grid": grid,
}


def layer_names(run: Trained) -> list[str]:
    """The names of a run's local layers, such as "stem" and "1.0"."""
    return [layer.name for layer in run.cfg.backbone.local_layers()]


def _check_among(key: str, chosen: Sequence[int], count: int, what: str) -> None:
    if not chosen or not all(0 <= index < count for index in chosen):
        raise ConfigError([Problem(key, list(chosen), f"there are {count} {what}, counted from 0")])


def _with_progress(items: Iterable[T], count: int) -> Iterable[T]:
    """The items, with a progress bar on a terminal."""
    return tqdm(items, total=count, disable=not sys.stderr.isatty(), leave=False)
