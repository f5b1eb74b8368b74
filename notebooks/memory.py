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
# # Memory against error
# MLAAN's Figure 1: what local learning saves in memory, and what it costs in accuracy. Records are read from
# `results/runs/`; other folders: set `LOCALSL_RESULTS` (of tables) and `LOCALSL_RUNS` (of runs), for rehearsals
# to `outputs/results` and `outputs`.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown, display

from localsl.published.numbers import KEYS
from localsl.tables import frames

RESULTS = Path(os.environ.get("LOCALSL_RESULTS", frames.ROOT / "results"))
RUNS = Path(os.environ.get("LOCALSL_RUNS", RESULTS / "runs"))
pd.set_option("display.precision", 2)


def scatter(points, memory, error, title):
    """A point a configuration; a colour a backbone."""
    axis = plt.figure(figsize=(7, 4.5)).add_subplot()
    for backbone, rows in points.groupby("backbone"):
        axis.scatter(rows[memory], rows[error], label=backbone)
        for _, row in rows.iterrows():
            axis.annotate(row["label"], (row[memory], row[error]), fontsize=7)
    axis.set(xlabel=memory, ylabel=error, title=title)
    axis.legend()
    plt.show()


# %% [markdown]
# The paper's own numbers: GPU memory of its Table 3, test error of its Table 1; they share CIFAR-10 only.

# %%
paper = frames.printed("mlaan/table3", "gpu_memory_gb").merge(frames.printed("mlaan/table1", "test_error_pct"))
display(paper[["dataset", "backbone", "label", "gpu_memory_gb", "test_error_pct"]])
scatter(paper, "gpu_memory_gb", "test_error_pct", "MLAAN on cifar10: paper")

# %% [markdown]
# The same from our two tables: a step's memory as `measure=memory` finds it, on a GPU or without one, and the
# test error of runs.

# %%
results = frames.results(RESULTS)
memory, error = (
    results[results["table"] == table].dropna(subset="ours_mean").rename(columns={"ours_mean": name})
    for table, name in (("mlaan/table3", "gpu_memory_gb"), ("mlaan/table1", "test_error_pct"))
)
memory = memory.rename(columns={"batch_size": "memory's batch", "measured_on": "memory"})
memory = memory[[*KEYS, "memory's batch", "memory", "gpu_memory_gb"]]
both = error[[*KEYS, "label", "setting", "test_error_pct"]].merge(memory)
if both.empty:
    display(Markdown("**Nothing is in both tables yet.** `make table1 table3 PAPER=mlaan` fills them."))
for (setting, scope), points in both.groupby(["setting", "memory"], sort=False):
    shown = points.drop(columns=[*KEYS, "setting", "memory"]).assign(backbone=points["backbone"])
    display(Markdown(f"{setting}. {scope}."), shown)
    scatter(points, "gpu_memory_gb", "test_error_pct", "MLAAN on cifar10: ours")

# %% [markdown]
# All rules: the runs behind all tables, each run once, with the mean error over seeds and the largest peak.
# What a peak includes is its scope: peaks of different scopes, batches or image sizes do not compare, and the
# papers do not say what theirs include.

# %%
behind = frames.behind(results).drop_duplicates("id")
runs = behind[["id", "label", "setting"]].merge(frames.runs(RUNS), on="id")
runs["peak memory (MiB)"] = runs["peak_memory_bytes"] / 2**20
if runs.empty:
    display(Markdown(f"**No runs of a table in `{RUNS}`.** `make status` tells which are missing."))
for (dataset, setting, scope), rows in runs.groupby(["dataset", "setting", "peak_memory_scope"], sort=False):
    cells = rows.groupby(["backbone", "label"], sort=False)
    points = cells.agg({"peak memory (MiB)": "max", "test_error": "mean", "id": "nunique"}).reset_index()
    display(Markdown(f"{setting}. Peak memory: {scope}."), points.rename(columns={"id": "seeds"}))
    scatter(points, "peak memory (MiB)", "test_error", dataset)
