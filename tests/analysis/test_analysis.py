"""Analyses agree with direct formulas, and their commands work end to end."""

import itertools
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from sklearn.linear_model import LogisticRegression

from localsl.analysis import cka, convergence, draw, feature_maps, probes, pyramid, runner, runs
from localsl.analysis.layers import normalised, outputs
from localsl.config import ConfigError, compose
from localsl.data.splits import Split
from localsl.network import build_network
from localsl.published import numbers as published
from localsl.runs import experiment, identity, stored
from tests.conftest import ROOT
from tests.helpers.analysis import NETWORK, TINY, rows_of
from tests.helpers.command import typed

HSICS = [cka.biased_hsic, cka.unbiased_hsic]


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rotation(size):
    return torch.linalg.qr(noise(size, size, seed=9))[0]


def similarity(x, y, hsic):
    """The CKA of two matrices of features."""
    k, l = cka.gram(x), cka.gram(y)  # noqa: E741
    return cka.alignment(hsic(k, l), hsic(k, k), hsic(l, l))


def network(*more):
    return build_network(compose([*NETWORK, *more])).eval()


# CKA.


@pytest.mark.parametrize("hsic", HSICS)
def test_cka_is_invariant_to_rotation_scale_and_shift(hsic):
    x = noise(20, 50)
    for y in (x, 3 * x @ rotation(50), x + 100, x.view(20, 2, 5, 5)):
        assert similarity(x, y, hsic) == pytest.approx(1, abs=1e-4)
    stretched = x * torch.linspace(0.01, 5, 50)
    assert similarity(x, stretched, hsic) < 0.95


def test_only_the_unbiased_estimate_finds_noise_dissimilar():
    x, y = noise(100, 4000), noise(100, 4000, seed=1)
    assert abs(similarity(x, y, cka.unbiased_hsic)) < 0.05
    assert similarity(x, y, cka.biased_hsic) > 0.9


def test_the_biased_estimate_equals_its_formula_in_features():
    """Kornblith et al.: ||Y^T X||^2 / (||X^T X|| ||Y^T Y||) of centred features, computed with NumPy."""
    x, y = noise(30, 8).numpy().astype(float), noise(30, 5, seed=1).numpy().astype(float)
    y[:, :5] += x[:, :5]
    a, b = x - x.mean(0), y - y.mean(0)
    direct = np.linalg.norm(b.T @ a) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    found = similarity(torch.from_numpy(x), torch.from_numpy(y), cka.biased_hsic)
    assert found == pytest.approx(direct, abs=1e-5)


def test_the_unbiased_estimate_is_the_mean_over_quadruples():
    """It is defined as the mean of k_ij (l_ij + l_qr - 2 l_iq) over all distinct i, j, q, r."""
    n = 7
    k, l = (x @ x.T for x in (noise(n, 3).double(), noise(n, 4, seed=1).double()))  # noqa: E741
    terms = [k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q]) for i, j, q, r in itertools.permutations(range(n), 4)]
    assert cka.unbiased_hsic(k, l) == pytest.approx(float(sum(terms)) / len(terms))


def test_only_the_unbiased_estimate_may_be_summed_over_batches():
    """The mean over batches of 10 images is compared with the estimate from all 4,000 images."""
    x = noise(4000, 3)
    y = x + 3 * noise(4000, 3, seed=1)
    ratios = {}
    for hsic in HSICS:
        batches = zip(x.split(10), y.split(10), strict=True)
        mean = np.mean([hsic(cka.gram(a), cka.gram(b)) for a, b in batches])
        ratios[hsic] = mean / hsic(cka.gram(x), cka.gram(y))
    assert ratios[cka.unbiased_hsic] == pytest.approx(1, abs=0.1)
    assert ratios[cka.biased_hsic] > 1.5


@pytest.mark.parametrize("hsic", HSICS)
def test_similarities_are_computed_for_every_layer_and_summed_over_batches(hsic):
    reference, other = network("seed=0"), network("seed=1")
    images = noise(24, 3, 8, 8)
    batches = list(images.split(12))
    to_itself, to_other = cka.similarities(reference, [reference, other], [[b, b, b] for b in batches], hsic)
    assert to_itself == pytest.approx([1.0] * 4)
    for layer, found in enumerate(to_other):
        grams = [[cka.gram([*outputs(net, batch)][layer]) for net in (other, reference)] for batch in batches]
        xy, xx, yy = (sum(hsic(g[i], g[j]) for g in grams) for i, j in ((0, 1), (0, 0), (1, 1)))
        assert found == pytest.approx(xy / (xx * yy) ** 0.5)
    assert max(to_other) < 0.999


def test_the_similarity_of_a_layer_without_variance_is_nan():
    assert np.isnan(similarity(torch.ones(5, 3), noise(5, 3), cka.unbiased_hsic))


def test_images_are_divided_into_batches_of_nearly_equal_size():
    cfg = compose(NETWORK)
    images = Split(torch.zeros(41, 3, 8, 8, dtype=torch.uint8), torch.zeros(41, dtype=torch.int64))
    parts = [len(x) for x in normalised(cfg, images, torch.device("cpu"), 8)]
    assert sum(parts) == 41
    assert min(parts) >= 6
    assert max(parts) <= 8
    assert [len(x) for x in normalised(cfg, images, torch.device("cpu"), None)] == [41]


# Probes.


def test_a_probe_separates_separable_classes_and_not_noise():
    targets = torch.arange(300) % 3
    features = 1e-3 * (noise(300, 6) + 20 * torch.eye(6)[targets]) + 5
    held_out = 1e-3 * (noise(300, 6, seed=1) + 20 * torch.eye(6)[targets]) + 5
    recipe = (3, 100, 1e-4)
    assert probes.separability((features, targets), (held_out, targets), *recipe) == (100, 100)
    _, accuracy_on_noise = probes.separability(
        (noise(300, 6), targets), (noise(300, 6, seed=1), targets), *recipe
    )
    assert accuracy_on_noise < 50


def test_a_probe_equals_scikit_learns_logistic_regression():
    targets = torch.arange(200) % 4
    x = (noise(200, 5) + torch.eye(5)[targets]).double()
    weights, biases = probes.fitted(x, targets, 4, 200, penalty := 0.01)
    reference = LogisticRegression(C=1 / (penalty * 200), tol=1e-8, max_iter=1000)
    reference.fit(x.numpy(), targets.numpy())
    found = (x @ weights.T + biases).softmax(1).numpy()
    np.testing.assert_allclose(found, reference.predict_proba(x.numpy()), atol=1e-4)


def test_features_are_standardised_by_the_training_images():
    train, test = torch.tensor([[1.0, 7], [3, 7]]), torch.tensor([[5.0, 8]])
    x, y = probes.standardised(train, test)
    assert x.tolist() == [[-1, 0], [1, 0]]
    assert y.tolist() == [[3, 0]]


def test_pooled_features_are_means_over_positions_and_leave_the_network_unchanged():
    net, images = network(), noise(10, 3, 8, 8)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = probes.pooled(net, images.split(4))
    assert [tuple(x.shape) for x in found] == [(10, 16), (10, 16), (10, 32), (10, 64)]
    x = images
    for layer, features in zip(net.backbone.layers, found, strict=True):
        x = layer(x)
        torch.testing.assert_close(features, x.mean((2, 3)))
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())


# Feature maps, curves, pyramid.


def test_feature_maps_are_means_over_channels_of_the_chosen_layers():
    net, images = network(), noise(2, 3, 8, 8)
    layers = [x.mean(1) for x in outputs(net, images)]
    found = feature_maps.maps(net, images, [3, 1])
    torch.testing.assert_close(found, [layers[3], layers[1]])
    assert feature_maps.ends_of_stages(["stem", "1.0", "1.1", "2.0", "3.0", "3.1"]) == [2, 3, 5]


def test_a_curve_has_the_figures_of_the_output_layer(tmp_path):
    head = "epoch,lr,train_loss,train_accuracy,test_loss,test_accuracy,module_0_loss"
    (tmp_path / "metrics.csv").write_text(f"{head}\n1,0.1,2.5,,2.25,11.5,7\n2,0,2,30,1.5,40,6\n")
    assert convergence.curve(tmp_path / "metrics.csv") == [
        {"epoch": 1, "train_loss": 2.5, "test_loss": 2.25, "test_accuracy": 11.5},
        {"epoch": 2, "train_loss": 2, "train_accuracy": 30, "test_loss": 1.5, "test_accuracy": 40},
    ]


def test_the_pyramid_reduces_operations_as_published():
    """AugLocal's text says about 45 %, and its Table 11 has the numbers of operations."""
    network = ["dataset=cifar10", "backbone=resnet110", "K=55"]
    cfg = compose(["method=auglocal", *network, "aux.depth=9", "aux.pyramid=1"])
    assert pyramid.reduction(cfg) == pytest.approx(45.2, abs=0.05)
    (printed,) = (n for n in published.read("auglocal/table11") if n.keys[-2:] == ("9", "tau=1.0"))
    assert sum(pyramid.multiply_adds(cfg)) / 1e9 == pytest.approx(float(printed.value), abs=0.006)


# The commands.


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of runs: backpropagation on two backbones, DGL, MAN, and AugLocal with two pyramids."""
    folder = tmp_path_factory.mktemp("trained")
    rules = [["method=bp"], ["method=dgl"], ["method=auglocal", "aux.depth=2"], ["method=man"]]
    rules.append(["method=bp", "backbone.blocks=[2,1,1]", "backbone.name=other"])
    rules.append(["method=auglocal", "aux.depth=2", "aux.pyramid=0"])
    for rule in rules:
        cfg = compose([*TINY, *rule, f"output_dir={folder}", "checkpoint.every=3"])
        assert experiment.run(cfg)
    return folder


@pytest.fixture
def ids(trained):
    """The runs' ids by method; "bp2" is backpropagation with the other backbone."""
    names = {path.parent.name: path.name[-8:] for path in sorted(trained.glob("digits/*/*"))}
    return {name.split("-")[0] + ("2" if "other" in name else ""): number for name, number in names.items()}


def analyse(monkeypatch, trained, kind, chosen, *more):
    """Run an analysis of the chosen runs, which writes there/it.csv and there/it.png; returns the exit code."""
    line = [f"analysis={kind}", f"runs=[{','.join(chosen)}]", f"output_dir={trained}", *more]
    return typed(monkeypatch, *line, "analysis.output=there/it", "device=cpu", "threads=1")


def test_similarities_end_to_end(trained, ids, monkeypatch):
    dgl_again = str(trained / "digits" / "dgl-tiny-K4" / "*")
    chosen = [ids["dgl"], ids["bp"], dgl_again, ids["man"]]
    assert analyse(monkeypatch, trained, "cka", chosen, "analysis.images=30", "analysis.batch=10") == 0
    rows = rows_of("there/it.csv")
    assert [row["label"] for row in rows] == ["dgl"] * 5 + ["man"] * 5
    assert [row["name"] for row in rows[:5]] == ["stem", "1.0", "2.0", "3.0", ""]
    values = [float(row["cka"]) for row in rows[:4]]
    assert all(-1 < value < 1 for value in values)
    assert rows[4]["layer"] == "mean"
    assert float(rows[4]["cka"]) == pytest.approx(np.mean(values), abs=1e-4)
    settings = {"reference": ids["bp"], "estimate": "unbiased", "images": "30", "batch": "10", "epochs": "3"}
    assert (settings | {"run": ids["dgl"]}).items() <= rows[0].items()
    assert Path("there/it.png").stat().st_size > 5000
    assert analyse(monkeypatch, trained, "cka", chosen, "analysis.biased=true") == 0
    assert rows_of("there/it.csv")[0]["estimate"] == "biased"


def test_a_second_run_of_backpropagation_is_compared_with_the_first(trained, ids, monkeypatch):
    copy = trained / "copies" / "of-bp"
    shutil.copytree(next(trained.glob("digits/bp-tiny/*")), copy)
    assert analyse(monkeypatch, trained, "cka", [ids["bp"], str(copy)]) == 0
    shutil.rmtree(copy.parent)
    rows = rows_of("there/it.csv")
    assert [row["label"] for row in rows] == ["bp"] * 5
    assert all(float(row["cka"]) == pytest.approx(1, abs=1e-4) for row in rows)


def test_probes_end_to_end(trained, ids, monkeypatch):
    assert analyse(monkeypatch, trained, "probes", [ids["bp"], ids["dgl"]], "analysis.iterations=30") == 0
    rows = rows_of("there/it.csv")
    assert [(row["label"], row["layer"]) for row in rows] == [
        (r, str(i)) for r in ("bp", "dgl") for i in range(4)
    ]
    assert all(0 <= float(row["probe_test_accuracy"]) <= 100 for row in rows)
    # 60 images are nearly separable in up to 64 channels.
    assert max(float(row["probe_train_accuracy"]) for row in rows) > 60
    assert {row["iterations"] for row in rows} == {"30"}
    assert Path("there/it.png").exists()


def test_feature_maps_end_to_end(trained, ids, monkeypatch):
    more = ["analysis.pictures=[5,0]", "analysis.layers=[0,3]"]
    assert analyse(monkeypatch, trained, "feature_maps", [ids["dgl"], ids["man"]], *more) == 0
    rows = rows_of("there/it.csv")
    assert [(row["label"], row["picture"], row["name"]) for row in rows] == [
        (label, picture, name)
        for label, names in (("image", [""]), ("dgl", ["stem", "3.0"]), ("man", ["stem", "3.0"]))
        for name in names
        for picture in ("5", "0")
    ]
    assert all(len(row["values"].split()) == int(row["height"]) * int(row["width"]) for row in rows)
    assert (rows[2]["height"], rows[4]["height"]) == ("8", "2")
    assert Path("there/it.png").exists()


def test_convergence_end_to_end_needs_only_the_kept_records(trained, ids, monkeypatch):
    kept = Path("results/runs") / ids["dgl"]
    kept.mkdir(parents=True)
    for file in ("config.yaml", "metrics.csv", "record.json"):
        shutil.copy(next(trained.glob("digits/dgl-tiny-K4/*")) / file, kept)
    line = ["analysis=convergence", f"runs=[{ids['dgl']}]"]
    assert typed(monkeypatch, *line) == 0
    (table,) = Path("outputs/analysis").glob("convergence-*.csv")
    rows = rows_of(table)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [row["train_loss"] for row in rows] == [row["train_loss"] for row in rows_of(kept / "metrics.csv")]
    assert table.with_suffix(".png").exists()


def test_the_pyramid_end_to_end(trained, monkeypatch):
    assert analyse(monkeypatch, trained, "pyramid", [f"{trained}/digits/auglocal*/*"]) == 0
    rows = rows_of("there/it.csv")
    assert {(row["tau"], row["reduction_pct"]) for row in rows} == {("0.0", "0.0"), ("0.5", "0.0")}


def test_the_tradeoff_end_to_end(trained, ids, monkeypatch):
    assert analyse(monkeypatch, trained, "tradeoff", [ids["bp"], ids["dgl"]]) == 0
    files = [next(trained.glob(f"digits/{name}/*/record.json")) for name in ("bp-tiny", "dgl-tiny-K4")]
    records = [stored.read(file) for file in files]
    rows = rows_of("there/it.csv")
    assert [int(row["peak_memory_bytes"]) for row in rows] == [r["peak_memory_bytes"] for r in records]
    for row, record in zip(rows, records, strict=True):
        assert float(row["test_error"]) == pytest.approx(100 - record["last"]["test_accuracy"], abs=0.005)
        assert (row["run"], row["batch_size"]) == (record["id"], "30")
    assert Path("there/it.png").exists()


def test_points_of_the_tradeoff_are_means_over_seeds():
    shared = {"dataset": "digits", "backbone": "tiny", "epochs": 3, "train_images": 60, "batch_size": 30}
    points = (("bp", 10.0, 4), ("bp", 20.0, 4), ("dgl", 30.0, 2))
    rows = [
        shared | {"label": label, "test_error": error, "peak_memory_bytes": mebibytes * 2**20}
        for label, error, mebibytes in points
    ]
    (axis,) = draw.tradeoff([rows]).axes
    marks = [container.lines[0] for container in axis.containers]
    assert [tuple(mark.get_xydata()[0]) for mark in marks] == [(4, 15), (2, 30)]
    assert [text.get_text() for text in axis.texts] == ["BP", "DGL"]


def test_a_panel_of_top5_errors_shows_them():
    shared = {"dataset": "imagenet", "backbone": "tiny", "epochs": 3, "train_images": 60, "batch_size": 30}
    rows = [shared | {"label": "bp", "test_error": 30.0, "top5_error": 10.0, "peak_memory_bytes": 2**20}]
    (axis,) = draw.tradeoff([rows]).axes
    assert axis.containers[0].lines[0].get_xydata()[0].tolist() == [1, 10]
    assert axis.get_ylabel() == "top-5 error (%)"


def test_accuracies_end_to_end(trained, ids, monkeypatch):
    assert analyse(monkeypatch, trained, "accuracy", [ids["bp"], ids["dgl"]]) == 0
    rows = rows_of("there/it.csv")
    assert [(row["label"], row["run"]) for row in rows] == [("bp", ids["bp"]), ("dgl", ids["dgl"])]
    assert Path("there/it.png").exists()


def test_dots_of_accuracy_are_means_over_seeds():
    shared = {"dataset": "digits", "backbone": "tiny"}
    points = (("bp", "90.0"), ("bp", "94.0"), ("dgl", "70.0"))
    rows = [shared | {"label": label, "test_accuracy": accuracy} for label, accuracy in points]
    (axis,) = draw.accuracies([rows]).axes
    assert [container.lines[0].get_xdata()[0] for container in axis.containers] == [92, 70]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["BP", "DGL"]


def test_memory_measured_in_different_ways_is_not_compared(trained, ids, tmp_path):
    copy = tmp_path / "other"
    shutil.copytree(next(trained.glob("digits/dgl-tiny-K4/*")), copy)
    record = stored.read(copy / "record.json")
    cfg = compose([f"output_dir={trained}", "device=cpu"])
    settings = replace(cfg.analysis, kind="tradeoff", output="there/it")
    for change, words in (
        ({"peak_memory_scope": "CUDA allocator's peak"}, "memory is CUDA allocator's peak in"),
        ({"peak_memory_bytes": None}, "was not measured"),
    ):
        (copy / "record.json").write_text(json.dumps(record | change))
        with pytest.raises(ConfigError, match=re.escape(words)):
            runner.run(replace(cfg, analysis=settings, runs=[ids["bp"], str(copy)]))
    assert not Path("there").exists()


def mistakes(ids, trained):
    """Kinds of analysis with runs that it refuses, and words of the message."""
    yield "cka", [], "show=runs"
    yield "cka", [ids["dgl"], ids["man"]], "method=bp"
    yield "cka", [ids["bp"]], "add a local rule's"
    yield "probes", [ids["bp"], ids["bp2"]], "backbones differ: other"
    yield "cka", ["00000000"], "is not a run"
    yield "cka", [str(trained / "digits")], "is not the folder of a run"
    yield "cka", [f"{trained}/nothing*"], "matches no run's folder"
    yield "pyramid", [ids["bp"]], "no depth d"


def test_runs_that_cannot_be_analysed_are_refused(trained, ids):
    cfg = compose([f"output_dir={trained}", "device=cpu"])
    for kind, chosen, words in mistakes(ids, trained):
        settings = replace(cfg.analysis, kind=kind, output="there/it")
        with pytest.raises(ConfigError, match=re.escape(words)):
            runner.run(replace(cfg, analysis=settings, runs=chosen))
    assert not Path("there").exists()


def test_wrong_runs_or_settings_end_with_exit_code_2(trained, ids, monkeypatch, capsys):
    assert analyse(monkeypatch, trained, "cka", [ids["dgl"], ids["man"]]) == 2
    errors = capsys.readouterr().err
    assert "train one by python run.py method=bp" in errors
    assert "Traceback" not in errors
    for more, words in (("pictures=[40]", "40 test images"), ("layers=[4]", "4 local layers")):
        assert analyse(monkeypatch, trained, "feature_maps", [ids["bp"]], f"analysis.{more}") == 2
        assert words in capsys.readouterr().err


def test_a_run_without_a_checkpoint_or_an_end_ends_with_exit_code_2(trained, ids, monkeypatch, capsys):
    copy = trained / "copies" / "of-bp"
    shutil.copytree(next(trained.glob("digits/bp-tiny/*")), copy)
    chosen = [ids["dgl"], str(copy)]
    shutil.rmtree(copy / "checkpoints")
    assert analyse(monkeypatch, trained, "cka", chosen) == 2
    errors = capsys.readouterr().err
    assert "has no checkpoint" in errors
    assert "checkpoint.required=true" in errors
    record = copy / "record.json"
    record.write_text(record.read_text().replace('"done"', '"interrupted"'))
    assert analyse(monkeypatch, trained, "convergence", chosen) == 2
    assert "is not finished: interrupted" in capsys.readouterr().err
    (copy / "config.yaml").write_text("K: 3\n")
    record.write_text(record.read_text().replace('"interrupted"', '"done"'))
    assert analyse(monkeypatch, trained, "convergence", chosen) == 2
    assert "cannot be read" in capsys.readouterr().err
    shutil.rmtree(copy.parent)


def test_a_run_of_several_gpus_is_analysed_on_a_cpu(trained, ids, tmp_path):
    """Settings of its training that do not work on this machine stay in its configuration."""
    folder = next(trained.glob(f"digits/*/seed=*-{ids['bp']}"))
    values = OmegaConf.load(folder / "config.yaml")
    values.processes, values.sync_batchnorm, values.batch_size = 8, True, 32
    shutil.copy(folder / "record.json", tmp_path)
    OmegaConf.save(values, tmp_path / "config.yaml")
    (run,) = runs.found([str(tmp_path)], compose(["device=cpu"]))
    assert (run.cfg.processes, run.cfg.sync_batchnorm) == (8, True)


def test_labels_have_only_the_settings_that_distinguish_the_runs():
    def labels(*lines):
        return runs.labels([compose(line.split()) for line in lines])

    assert labels("method=bp", "method=dgl", "method=auglocal aux.depth=4") == ["bp", "dgl", "auglocal"]
    found = labels(
        "method=auglocal aux.depth=2", "method=auglocal aux.depth=4 aux.pyramid=0", "method=bp seed=1"
    )
    assert found == ["auglocal aux.depth=2", "auglocal aux.depth=4", "bp"]
    assert labels("method=dgl seed=1", "method=dgl seed=2") == ["dgl", "dgl"]
    assert labels("method=man", "method=man ema.bias=none") == ["man ema.bias=block", "man ema.bias=none"]


def test_a_training_run_imports_no_package_of_the_analyses():
    code = (
        "import run, sys; print([m for m in sys.modules if m in ('matplotlib', 'pandas', 'localsl.analysis')])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Runs on pictures whose folder has moved.


@pytest.fixture
def moved(folder, tmp_path):
    """The folder of a run, and the new place of its pictures."""
    overrides = [
        "schedule=smoke",
        "schedule.epochs=2",
        "schedule.warmup_epochs=0",
        "device=cpu",
        "batch_size=5",
    ]
    overrides += ["dataset=imagefolder", f"dataset.root={folder}", "dataset.image_size=16", "dataset.workers=0"]
    cfg = compose([*NETWORK, *overrides])
    experiment.run(cfg)
    folder.rename(tmp_path / "new")
    return identity.run_directory(cfg), tmp_path / "new"


def test_analyses_that_need_no_pictures_work_without_them(moved, monkeypatch, capsys):
    run, _ = moved
    for kind in ("convergence", "tradeoff"):
        assert typed(monkeypatch, f"analysis={kind}", f"runs=[{run}]", f"analysis.output={kind}") == 0
        assert rows_of(f"{kind}.csv")[0]["dataset"] == "imagefolder"
    assert typed(monkeypatch, "analysis=probes", f"runs=[{run}]") == 2
    assert "there is no such folder; type dataset.root=FOLDER" in capsys.readouterr().err


@pytest.mark.parametrize("more", [[], ["dataset=imagefolder", "dataset.image_size=16"]])
def test_pictures_that_moved_are_found_by_dataset_root(moved, more, monkeypatch, capsys):
    run, new = moved
    line = ["analysis=probes", f"runs=[{run}]", "analysis.output=probes", "analysis.iterations=2", *more]
    assert typed(monkeypatch, *line, f"dataset.root={new}") == 0
    assert rows_of("probes.csv")
    (new / "val" / "cats" / "0.png").rename(new / "val" / "cats" / "another.png")
    assert typed(monkeypatch, *line, f"dataset.root={new}") == 2
    assert "does not hold the pictures that this run was configured with" in capsys.readouterr().err
