"""Export a run for other programs: a Hugging Face folder, or a GGUF file for llama.cpp.

checkpoint → files in a temporary folder → read back and compared with the model → the folder `out`
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fledge.core.errors import UserError
from fledge.core.files import atomic_folder, user_path
from fledge.core.progress import notice
from fledge.exchange import custom_code, hf_tokenizer, huggingface, model_card
from fledge.exchange.compatibility import UnsupportedArchitecture
from fledge.exchange.eject import render_model, run_settings
from fledge.exchange.parity import Parity
from fledge.runs.methods import refuse_reward_model
from fledge.runs.run_folder import LoadedCheckpoint, open_run

GGUF_DTYPE = "f16"  # the default of llama.cpp's own converter


@dataclass(frozen=True)
class ExportResult:
    run: str
    step: int
    to: str
    kind: str  # architecture, as the target format names it
    folder: Path
    files: dict[str, int]  # name → bytes
    parity: Parity


def export(
    run: str | None,
    to: Literal["hf", "gguf"],
    out: str,
    *,
    runs: Path,
    dtype: Literal["f32", "f16", "bf16", "q8_0"] | None = None,
) -> ExportResult:
    """Write the model of a run to the new folder `out`.

    run: name or path; None: the latest run. dtype: precision of the weights, for GGUF only.
    """
    if to == "hf" and dtype not in (None, "f32"):
        raise UserError(f"--dtype {dtype} is for --to gguf", "leave it out: files for Hugging Face are in float32")
    target = user_path(out)
    if target.exists():
        raise UserError(f"'{target}' already exists", "choose another --out, or remove it first")
    loaded = open_run(run, runs, default="best").load()
    refuse_reward_model(loaded.run)
    with atomic_folder(target) as folder:
        if to == "gguf":
            kind, parity = write_gguf(loaded, folder, dtype or GGUF_DTYPE)
        else:
            kind, parity = write_hf(loaded, folder)
            if template := loaded.run.chat_template():
                hf_tokenizer.add_chat_template(folder, template)
        sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
    return ExportResult(loaded.run.name, loaded.checkpoint.step, to, kind, target, sizes, parity)


def write_hf(loaded: LoadedCheckpoint, folder: Path) -> tuple[str, Parity]:
    try:
        kind = huggingface.write_hf_folder(folder, loaded.model, loaded.tokenizer)
    except UnsupportedArchitecture as error:
        notice(f"{error.message}: the model's own code is added, load it with trust_remote_code=True ({error.hint})")
        return write_hf_with_code(loaded, folder)
    parity = huggingface.check_hf_folder(folder, loaded.model, loaded.tokenizer, kind)
    write_card(folder, model_card.transformers_card(loaded, kind, parity))
    return kind, parity


def write_hf_with_code(loaded: LoadedCheckpoint, folder: Path) -> tuple[str, Parity]:
    code = render_model(loaded.run.name, run_settings(loaded.run))
    kind = custom_code.write_custom_code(folder, loaded.model, loaded.tokenizer, code)
    parity = custom_code.check_custom_code(folder, loaded.model)
    write_card(folder, model_card.transformers_card(loaded, kind, parity, custom_code=True))
    return kind, parity


def write_gguf(loaded: LoadedCheckpoint, folder: Path, dtype: str) -> tuple[str, Parity]:
    from fledge.exchange import gguf

    file = folder / f"{loaded.run.name}-{dtype}.gguf"
    kind = gguf.write_gguf(file, loaded.model, loaded.tokenizer, dtype, loaded.run.name, loaded.run.chat_template())
    parity = gguf.check_gguf(file, loaded.model, loaded.tokenizer, dtype)
    write_card(folder, model_card.llama_cpp_card(loaded, file.name, kind, parity))
    return kind, parity


def write_card(folder: Path, card: str) -> None:
    (folder / "README.md").write_text(card, encoding="utf-8")
