"""The README of an export: what the model is, how it was trained, how good it is, how to use it.

It holds only what the run has recorded, and nothing about the machine that trained it.
"""

import math
from pathlib import Path

from fledge.core.errors import UserError
from fledge.exchange.parity import Parity
from fledge.model.flops import parameter_count
from fledge.runs.run_folder import LoadedCheckpoint
from fledge.tracking.sinks.csv import read_metrics

FRONT_MATTER = """---
library_name: {library}
pipeline_tag: text-generation
tags: [fledge]
---
"""
PYTHON_USAGE = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("."{trust})
tokenizer = AutoTokenizer.from_pretrained("."{trust})
ids = tokenizer("Once", return_tensors="pt", add_special_tokens=False).input_ids
print(tokenizer.decode(model.generate(ids, max_new_tokens=100)[0]))
```"""


def transformers_card(loaded: LoadedCheckpoint, architecture: str, parity: Parity, *, custom_code: bool = False) -> str:
    usage = PYTHON_USAGE.format(trust=", trust_remote_code=True" if custom_code else "")
    return FRONT_MATTER.format(library="transformers") + _body(loaded, architecture, parity, usage)


def llama_cpp_card(loaded: LoadedCheckpoint, file: str, architecture: str, parity: Parity) -> str:
    usage = f"```\nllama-cli -m {file} -no-cnv -p 'Once' -n 100\n```"
    return FRONT_MATTER.format(library="llama.cpp") + _body(loaded, architecture, parity, usage)


def _body(loaded: LoadedCheckpoint, architecture: str, parity: Parity, usage: str) -> str:
    rows = "\n".join(f"| {name} | {value} |" for name, value in card_rows(loaded, architecture).items())
    sections = (
        f"# {loaded.run.name}",
        "A small language model, trained with fledge.",
        f"| | |\n|---|---|\n{rows}",
        f"## Usage\n\n{usage}",
        f"## Verification\n\nWhen these files were written: {parity.summary}.",
    )
    return "\n" + "\n\n".join(sections) + "\n"


def card_rows(loaded: LoadedCheckpoint, architecture: str) -> dict[str, str]:
    """The rows of the table; what the run has not recorded is left out."""
    model, metadata, train = loaded.model.config, loaded.run.metadata(), loaded.run.config().get("train", {})
    rows = {
        "architecture": f"{architecture}: {model.n_layer} layers, {model.n_head} heads, width {model.n_embd}",
        "parameters": f"{parameter_count(model):,}",
        "context": f"{model.context:,} tokens",
        "vocabulary": f"{loaded.tokenizer.vocab_size:,} tokens ({loaded.tokenizer.kind})",
    }
    origins = {"imported": "imported from", "init": "initialized from", "text": "trained on"}
    rows |= {label: Path(str(metadata[key])).name for key, label in origins.items() if key in metadata}
    if "imported" in metadata:
        return rows
    rows["steps"] = f"{loaded.checkpoint.step:,} of {loaded.run.last_step():,}, {train.get('batch')} sequences each"
    return rows | _validation_rows(loaded)


def _validation_rows(loaded: LoadedCheckpoint) -> dict[str, str]:
    """The validation results at the exported step, if it was evaluated."""
    try:
        metrics = read_metrics(loaded.run.folder)
    except UserError:
        return {}
    columns = (metrics[name] for name in ("step", "val/loss", "val/bits_per_byte", "val/accuracy"))
    rows = [row for row in zip(*columns, strict=True) if row[0] == loaded.checkpoint.step and not math.isnan(row[1])]
    if not rows:
        return {}
    _, loss, bits, accuracy = rows[-1]
    return {
        "validation loss": f"{loss:.4f} nats per token",
        "perplexity": f"{math.exp(loss):.3f}",
        "bits per byte": f"{bits:.4f}",
        "accuracy": f"{accuracy:.4f}",
    }
