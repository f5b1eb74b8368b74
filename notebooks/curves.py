# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Convergence
# Accuracy and loss per epoch of the runs behind the tables: the mean over seeds, in a band of one standard
# deviation. Read from the `metrics.csv` of `results/runs/`; other folders: set `LOCALSL_RESULTS` (of tables)
# and `LOCALSL_RUNS` (of runs), for rehearsals to `outputs/results` and `outputs`.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown, display

from localsl.tables import frames

RESULTS = Path(os.environ.get("LOCALSL_RESULTS", frames.ROOT / "results"))
RUNS = Path(os.environ.get("LOCALSL_RUNS", RESULTS / "runs"))
LAYERWISE = {"resnet32": "16", "resnet110": "55"}  # K of a module a layer

behind = frames.behind(frames.results(RESULTS))
epochs = frames.epochs(RUNS)
pd.set_option("display.precision", 2, "display.max_colwidth", None)


# %% [markdown]
# A figure has a row a metric and a column a backbone. It shows a table's runs of CIFAR-10: backpropagation, and
# rules with a module a layer. Each setting has a figure of its own; a table says where the curves end.


# %%
def curves(table):
    """The epochs of a table's runs: layer by layer on CIFAR-10, and backpropagation's."""
    rows = behind[(behind["table"] == table) & (behind["dataset"] == "cifar10")]
    layerwise = rows["K"] == rows["backbone"].map(LAYERWISE)
    rows = rows[layerwise | (rows["K"] == "")].drop_duplicates(["id", "label"])
    return rows[["id", "label", "method", "base", "depth", "backbone", "setting"]].merge(epochs, on="id")


def draw(shown, metrics):
    """A base and the rule on it have one colour; the base alone is dashed."""
    backbones = [name for name in LAYERWISE if name in set(shown["backbone"])]
    size = (6 * len(backbones), 3.5 * len(metrics))
    figure, axes = plt.subplots(len(metrics), len(backbones), figsize=size, squeeze=False)
    bases = shown["base"].where(shown["base"] != "", shown["method"]) + shown["depth"]
    colours = {base: f"C{i}" for i, base in enumerate(bases.unique())}
    for (backbone, label), rows in shown.groupby(["backbone", "label"], sort=False):
        colour = colours[bases[rows.index[0]]]
        style = "--" if rows["method"].iloc[0] in set(shown["base"]) else "-"
        for metric, line in zip(metrics, axes, strict=True):
            axis = line[backbones.index(backbone)]
            mean = rows.groupby("epoch")[metric].mean()
            std = rows.groupby("epoch")[metric].std().fillna(0)
            axis.plot(mean.index, mean, style, color=colour, label=label)
            axis.fill_between(mean.index, mean - std, mean + std, color=colour, alpha=0.2)
            axis.set(title=backbone, xlabel="epoch", ylabel=metric)
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.legend(fontsize=7)
    figure.suptitle(shown["setting"].iloc[0], fontsize=9)
    figure.tight_layout()
    plt.show()


def show(table, metrics):
    """Draw a table's runs and tell where they end, or say that there are none."""
    shown = curves(table)
    if shown.empty:
        display(Markdown(f"**No runs of {table} in `{RUNS}`.** `make status` tells which are missing."))
        return
    last = shown[shown["epoch"] == shown.groupby("id")["epoch"].transform("max")]
    told = last.groupby(["setting", "backbone", "label"], sort=False)
    display(pd.concat([told["seed"].nunique().rename("seeds"), told[["epoch", *metrics]].mean()], axis=1))
    for _, rows in shown.groupby("setting", sort=False):
        draw(rows, metrics)


# %% [markdown]
# MAN, Figure 4: each base alone (dashed) and with MAN. The caption says training accuracy, the text only
# accuracy: both are drawn. Training accuracy is the output module's, over the epoch, in training mode.

# %%
show("man/table1", ["train_accuracy", "test_accuracy"])

# %% [markdown]
# AugLocal, Figure 6: loss and accuracy of the output layer in training, over the rules.

# %%
show("auglocal/table1", ["train_loss", "train_accuracy"])
