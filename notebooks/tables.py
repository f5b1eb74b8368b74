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
# # The papers' tables beside ours
# A view of `results/`, which `make table1` and its like write. Another folder, such as the `outputs/results` of
# rehearsals: set `LOCALSL_RESULTS`.

# %%
import os
from pathlib import Path

import pandas as pd
from IPython.display import Markdown, display

from localsl.published.numbers import KEYS
from localsl.tables import frames

RESULTS = Path(os.environ.get("LOCALSL_RESULTS", frames.ROOT / "results"))
results = frames.results(RESULTS)
pd.set_option("display.max_rows", None, "display.max_colwidth", None, "display.precision", 2)
if results.empty:
    display(Markdown(f"**No tables in `{RESULTS}` yet.** `make table1` runs and writes them."))

# %% [markdown]
# Of each table, how many numbers the paper prints, how many of them are measured, and how far off ours are: the
# mean difference, ours less the paper's, and the largest either way. Settings of runs are kept apart.

# %%
for paper, rows in results.groupby(results["table"].str.split("/").str[0]):
    numbers = rows.drop_duplicates(["table", "metric", *KEYS]).groupby(["table", "metric"], sort=False).size()
    measured = rows[rows["ours"] != ""].groupby(["table", "metric", "setting"])["difference"]
    overview = measured.agg(measured="size", mean="mean", lowest="min", highest="max").reset_index()
    overview = numbers.rename("numbers").reset_index().merge(overview, how="left")
    display(Markdown(f"### {paper}"), overview.fillna({"measured": 0, "setting": ""}))

# %% [markdown]
# The tables: the paper's number, ours at the last epoch (mean and standard deviation over `n` seeds), the
# difference, and the setting of our runs. A number that was measured under several settings has a row for each.

# %%
for name, rows in results.groupby("table", sort=False):
    keys = [key for key in KEYS if (rows[key] != "").any()]
    shown = rows[[*keys, "metric", "paper", "ours", "n", "difference", "status", "setting"]]
    formats = {"n": "{:.0f}", "difference": "{:+.2f}"}
    display(Markdown(f"### {name}"), shown.style.hide(axis="index").format(formats, na_rep=""))

# %% [markdown]
# What is missing, and why: cells without a run, with fewer seeds than the paper, or not measured by a run.

# %%
missing = results[results["status"] != "done"].groupby(["table", "dataset", "backbone", "status"], sort=False)
display(missing["label"].agg(lambda labels: ", ".join(dict.fromkeys(labels))).rename("cells").reset_index())
