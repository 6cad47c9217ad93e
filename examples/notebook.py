"""fledge in a notebook: open this file as cells in Jupyter (jupytext), VS Code or PyCharm, or run it with Python."""

# %% [markdown]
# # Train a small GPT
# The text is a module of your own Python, so nothing is downloaded. Use a folder of your own instead.

# %%
import json
from pathlib import Path

import fledge

text = Path(json.decoder.__file__)

# %% [markdown]
# A preset gives all settings; every one of them can be replaced. This run takes a few seconds on a laptop; for a better
# model take more steps. `verbose=True` shows the progress.

# %%
run = fledge.train(
    "demo",
    data=text,
    tokenizer="char",
    name="notebook",
    model={"n_layer": 2, "n_head": 2, "n_embd": 64, "context": 64},
    train={"steps": 60, "batch": 8, "eval_every": 20, "sample_every": 0},
)
run

# %% [markdown]
# What did it learn? The text comes piece by piece from `run.stream`, or all at once:

# %%
run.generate("def ", tokens=100, temperature=0.7)

# %%
run.evaluate().bits_per_byte

# %%
run.metrics()

# %%
run.plot()

# %% [markdown]
# # Look inside
# What does each head attend to? A row of squares is a layer; a row of a square is a token, and what it attends to.

# %%
line = "def decode(self, s):"
attention = run.attention(line)
attention

# %%
attention.head(1, 0)

# %% [markdown]
# What would the model predict if it stopped after a layer? In each cell, the most likely next character.

# %%
lens = run.logit_lens(line)
lens

# %% [markdown]
# Where did this come from? The longest passages of a text that the run was trained on, and the steps that saw them.

# %%
origin = run.provenance(line)
origin

# %% [markdown]
# Every checkpoint can be opened later, also by another process.

# %%
best = fledge.load("notebook@best")
sum(parameter.numel() for parameter in best.model.parameters())

# %%
fledge.list_runs()
