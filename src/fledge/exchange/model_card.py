"""The README beside an export: what the model is, how it was made, how good it is, how to use it.

Says only what the run knows. Nothing that tells of the machine it was trained on leaves with it.
"""

import math
from pathlib import Path

from fledge.core.errors import UserError
from fledge.exchange.parity import Parity
from fledge.model.flops import parameters
from fledge.runs.run_folder import LoadedCheckpoint
from fledge.tracking.sinks.csv import read_metrics

FRONT = """---
library_name: {library}
pipeline_tag: text-generation
tags: [fledge]
---
"""
IN_PYTHON = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("."{trust})
tokenizer = AutoTokenizer.from_pretrained("."{trust})
ids = tokenizer("Once", return_tensors="pt", add_special_tokens=False).input_ids
print(tokenizer.decode(model.generate(ids, max_new_tokens=100)[0]))
```"""


def transformers_card(loaded: LoadedCheckpoint, kind: str, parity: Parity, *, code: bool = False) -> str:
    """With `code`, the model comes with its own, which one must agree to run."""
    use = IN_PYTHON.format(trust=", trust_remote_code=True" if code else "")
    return FRONT.format(library="transformers") + _body(loaded, kind, parity, use)


def llama_cpp_card(loaded: LoadedCheckpoint, file: str, kind: str, parity: Parity) -> str:
    use = f"```\nllama-cli -m {file} -no-cnv -p 'Once' -n 100\n```"
    return FRONT.format(library="llama.cpp") + _body(loaded, kind, parity, use)


def _body(loaded: LoadedCheckpoint, kind: str, parity: Parity, use: str) -> str:
    rows = "\n".join(f"| {name} | {value} |" for name, value in card_rows(loaded, kind).items())
    parts = (
        f"# {loaded.run.name}",
        "A small language model, made with fledge.",
        f"| | |\n|---|---|\n{rows}",
        f"## Use\n\n{use}",
        f"## Check\n\nWhen these files were written: {parity.summary}.",
    )
    return "\n" + "\n\n".join(parts) + "\n"


def card_rows(loaded: LoadedCheckpoint, kind: str) -> dict[str, str]:
    """What the run knows about itself; what it does not know is left out."""
    model, about, train = loaded.model.config, loaded.run.metadata(), loaded.run.config().get("train", {})
    told = {
        "architecture": f"{kind}: {model.n_layer} layers, {model.n_head} heads, width {model.n_embd}",
        "parameters": f"{parameters(model):,}",
        "context": f"{model.context:,} tokens",
        "vocabulary": f"{loaded.tokenizer.vocab_size:,} tokens ({loaded.tokenizer.kind})",
    }
    came = {"imported": "imported from", "init": "begun with the weights of", "text": "trained on"}
    told |= {words: Path(str(about[fact])).name for fact, words in came.items() if fact in about}
    if "imported" in about:
        return told
    told["steps"] = f"{loaded.checkpoint.step:,} of {train.get('steps'):,}, {train.get('batch')} sequences each"
    return told | _judged(loaded)


def _judged(loaded: LoadedCheckpoint) -> dict[str, str]:
    """The last look at the validation split at or before this step."""
    try:
        metrics = read_metrics(loaded.run.folder)
    except UserError:
        return {}
    rows = zip(*(metrics[name] for name in ("step", "val/loss", "val/bits_per_byte", "val/accuracy")), strict=True)
    looks = [row for row in rows if row[0] == loaded.checkpoint.step and not math.isnan(row[1])]
    if not looks:
        return {}
    _, loss, bits, accuracy = looks[-1]
    return {
        "validation loss": f"{loss:.4f} nats per token",
        "perplexity": f"{math.exp(loss):.3f}",
        "bits per byte": f"{bits:.4f}",
        "accuracy": f"{accuracy:.4f}",
    }
