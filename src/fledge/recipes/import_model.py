"""Read the model of another program into a run at step 0: to generate, to evaluate, to train further."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fledge.checkpoint.state import initial_state
from fledge.core.config import to_toml
from fledge.core.files import user_path
from fledge.exchange.model_source import model_name
from fledge.exchange.read_model import given_tokenizer, read_external_model
from fledge.exchange.tensors import check_finite
from fledge.exchange.torch_checkpoints.shape import GivenShape
from fledge.model.config import ModelConfig
from fledge.model.flops import parameter_count
from fledge.runs import metadata, run_folder
from fledge.runs.names import check_run_name, run_name_from
from fledge.settings.pipeline import validated

# Defaults for training further: a small learning rate, to limit forgetting.
FINE_TUNING: dict[str, dict[str, Any]] = {
    "optim": {"lr": 3e-5, "min_lr": 3e-6, "warmup_steps": 50},
    "train": {"steps": 500, "batch": 8, "eval_every": 100, "sample_every": 100},
}


@dataclass(frozen=True)
class ImportResult:
    run: str
    folder: Path
    kind: str  # the architecture's name in the other program
    parameters: int
    vocab_size: int
    model: ModelConfig
    has_chat_template: bool


def import_model(
    source: str,
    out: str | None = None,
    runs: Path = Path("runs"),
    *,
    tokenizer: str | None = None,
    characters: str | None = None,
    preset: str | None = None,
    n_head: int | None = None,
) -> ImportResult:
    """Import a Hugging Face folder or Hub name, a checkpoint of another GPT program (.pt, .pth, .ckpt), or a .gguf.

    out: name or path of the new run; None: a name from the source.
    tokenizer (a tokenizer.json, or gpt2), characters (a text that has them all): for a source without a tokenizer.
    preset, n_head: for a checkpoint that does not say how many attention heads its model has.
    """
    folder = run_destination(out, source, runs)
    external = read_external_model(source, given_tokenizer(tokenizer, characters), GivenShape(preset, n_head))
    check_finite(external.weights, source)
    about = {**metadata.software_metadata(external.tokenizer), "imported": source, "kind": external.architecture}
    file = {"file": str((folder / run_folder.TOKENIZER).resolve())}
    settings = validated({"model": asdict(external.model), "tokenizer": file, **FINE_TUNING})
    start = initial_state(external.weights, settings.train.seed)
    run = run_folder.create_run(folder, to_toml(settings), about, external.tokenizer, start, external.chat)
    size, vocab_size = parameter_count(external.model), external.tokenizer.vocab_size
    return ImportResult(run.name, folder, external.architecture, size, vocab_size, external.model, bool(external.chat))


def run_destination(out: str | None, source: str, runs: Path) -> Path:
    """The folder of the new run: `out` if it is a path, else a name in `runs`."""
    if out is not None and "/" in out:
        folder = user_path(out)
        check_run_name(folder.name)
    elif out is not None:
        check_run_name(out)
        folder = runs / out
    else:
        folder = runs / run_folder.free_name(runs, run_name_from(model_name(source)))
    run_folder.refuse_existing(folder)
    return folder
