"""The dataset that a run was trained on."""

import shlex

from fledge.core.distributed import SINGLE_PROCESS, World
from fledge.core.errors import UserError
from fledge.core.files import user_path
from fledge.datasets.cache import open_dataset_at
from fledge.datasets.shards import Dataset
from fledge.runs.run_folder import CONFIG, TOKENIZER, RunFolder
from fledge.text.inputs import is_url


def open_run_dataset(run: RunFolder, path: str | None, world: World = SINGLE_PROCESS) -> Dataset:
    """Open the dataset at `path`, the run's data.path; refused if it is not the one that the run was trained on."""
    if "imported" in run.metadata():
        raise UserError(
            f"'{run.name}' was imported: it was not trained here",
            f"train a new run from its weights: fledge train my-notes/ --init {run.reference}",
        )
    if path is None:
        raise UserError(f"'{run.folder / CONFIG}' is damaged: data.path is missing", "restore it from a copy")
    if not is_url(path) and not user_path(path).exists():
        raise UserError(
            f"the dataset of '{run.name}' is gone: '{path}' does not exist",
            f"restore it, or prepare the same text again: fledge prepare SOURCE --out {shlex.quote(path)}"
            f" --tokenizer {run.path_word}/{TOKENIZER}",
        )
    with world.main_process_first("text"):
        dataset = open_dataset_at(path, run.tokenizer)
    expected = run.metadata_value("dataset_sha256")
    if dataset.fingerprint != expected:
        raise UserError(
            f"the dataset '{dataset.folder}' is not the one that '{run.name}' was trained on:"
            f" {dataset.fingerprint[:12]}… instead of {expected[:12]}…",
            "restore the old dataset, or train a new run on the new one",
        )
    return dataset
