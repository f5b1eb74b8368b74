"""Modules that do not learn are named in a warning and in the record."""

import torch

from localsl.config import compose
from localsl.network import build_network
from localsl.runs import experiment
from localsl.train import health

TINY = ["schedule=smoke", "schedule.epochs=4", "K=4", "backbone=resnet20", "batch_size=20"]
TINY += ["dataset.train_subset=60", "dataset.test_subset=20"]


def metrics_rows(*accuracies):
    """Rows of metrics: module 0 has these accuracies, and module 2 no classifier but a falling loss."""
    return [
        {"module_0_accuracy": a, "module_1_accuracy": 50.0, "module_2_accuracy": None, "module_2_loss": 1.0 / i}
        for i, a in enumerate(accuracies, 1)
    ]


def test_a_module_at_chance_for_three_epochs_is_reported():
    network = build_network(compose(["K=3", "backbone=resnet20"]))
    assert health.complaints(network, metrics_rows(9.0, 10.5), 10) == []
    assert health.complaints(network, metrics_rows(9.0, 12.0, 9.0, 10.5), 10) == []
    assert health.complaints(network, metrics_rows(30.0, 9.0, 10.5, 10.0), 10) == ["module 0 stays at chance"]


def test_a_module_whose_gradients_vanish_is_reported():
    network = build_network(compose(["K=3", "backbone=resnet20"]))
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    assert health.complaints(network, metrics_rows(50.0), 10) == []
    for layer in network.layers_of(network.local_modules[1]):
        for parameter in layer.parameters():
            assert parameter.grad is not None
            parameter.grad *= 1e-12
    assert health.complaints(network, metrics_rows(50.0), 10) == ["the gradients of module 1 vanish"]


def test_a_module_without_a_classifier_is_judged_by_its_loss():
    network = build_network(compose(["K=3", "backbone=resnet20"]))
    rows = metrics_rows(50.0, 50.0, 50.0, 50.0)
    for row, loss in zip(rows, (2.0, 2.1, 2.0, 1.999), strict=True):
        row["module_2_loss"] = loss
    assert health.complaints(network, rows[:3], 10) == []
    assert health.complaints(network, rows, 10) == ["the loss of module 2 does not fall"]
    rows[-1]["module_2_loss"] = 1.99
    assert health.complaints(network, rows, 10) == []


def test_vanishing_gradients_are_found_although_per_module_updates_free_them(monkeypatch):
    monkeypatch.setattr(health, "VANISHED", 1e9)  # every gradient counts as vanished
    record = experiment.run(compose([*TINY, "schedule.epochs=2", "optimizer.per_module=true"]))
    assert record is not None
    assert record["warnings"] == [f"the gradients of module {i} vanish" for i in range(4)]


def test_a_run_reports_each_module_once_and_records_it(monkeypatch, capsys):
    monkeypatch.setattr(health, "MARGIN", 10.1)  # every accuracy counts as chance
    record = experiment.run(compose(TINY))
    assert record is not None
    assert record["warnings"] == [f"module {i} stays at chance" for i in range(4)]
    errors = capsys.readouterr().err
    assert errors.count("module 2 stays at chance, after 3 epochs") == 1
