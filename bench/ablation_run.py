"""One run of ablations.py: the recipe with one part changed, trained and evaluated in a process of its own.

    python bench/ablation_run.py '{"text": …, "settings": {…}, "part": …, "seed": 1, "seconds": 60, …}'

Prints one JSON document: a row of the table, or {"skipped": why}.
"""

import json
import sys
import time
from dataclasses import replace
from statistics import mean
from typing import Any

import numpy as np
import torch

from ablation_model import NotApplicable, Patch, Training
from ablation_parts import BASELINE, FIT_SETTINGS, PARTS, changed
from fledge.checkpoint.state import Tensors, load_weights
from fledge.core.device import Machine, choose_machine
from fledge.datasets.cache import ensure_dataset
from fledge.datasets.shards import Dataset, Split
from fledge.evaluation.loss import evaluate_loss
from fledge.settings.complete import complete_settings
from fledge.settings.pipeline import resolve
from fledge.tokenizers.base import byte_lengths
from fledge.training.config import Settings
from fledge.training.ngram_fit import ngram_state
from fledge.training.setup import NextToken, build_training

MEASURED = 12  # updates of each, in turns, that tell what one costs
LAST = 20  # updates whose mean loss is reported
Row = dict[str, Any]


class Run:
    def __init__(self, spec: Row) -> None:
        """spec: text, settings (a layer above preset `text`), part, seed, eval_tokens, steps or seconds.

        strength: of the patch, 1 where it is missing.
        """
        layer = {**spec["settings"], "data": {**spec["settings"].get("data", {}), "corpus": spec["text"]}}
        self.spec, self.recipe = spec, resolve("text", layer)
        self.machine: Machine = choose_machine("cpu", self.recipe.train.dtype, threads=1)
        self.dataset: Dataset = ensure_dataset(self.recipe.data, self.recipe.tokenizer)

    def settings(self, part: str, steps: int) -> Settings:
        """Those of a part, complete."""
        settings = changed(self.recipe, PARTS[part])
        train = replace(settings.train, steps=steps, epochs=None, seed=self.spec["seed"], compile=False)
        return complete_settings(replace(settings, train=train), self.dataset, self.machine)

    def build(self, part: str, steps: int, weights: Tensors | None = None) -> tuple[Training, Patch | None]:
        """A model with these weights, or new ones, and everything that an update of it needs."""
        settings, split = self.settings(part, steps), self.dataset.split("train")
        step = build_training(settings, self.machine, NextToken(settings, self.machine, split))
        if weights:
            load_weights(step.model, weights)
        training, kind = Training(step, settings, split, self.machine), PARTS[part].patch
        patch = kind(self.spec.get("strength", 1.0)) if kind else None
        if patch:
            patch.install(training)
        torch.manual_seed(settings.train.seed)  # of dropout
        return training, patch

    def step_seconds(self, part: str) -> tuple[float, float]:
        """CPU seconds of an update of the part and of the baseline, measured in turns: other programs slow both.

        The measured updates are a whole short run, so that a part that grows has all its sizes in them.
        """
        names = list(dict.fromkeys([part, BASELINE]))
        runs = {name: self.build(name, MEASURED)[0].step for name in names}
        for step in runs.values():
            step(0)
            step(MEASURED - 1)
        spent: dict[str, list[float]] = {name: [] for name in names}
        for number in range(MEASURED):
            for name, step in runs.items():
                begin = time.process_time()
                step(number)
                spent[name].append(time.process_time() - begin)
        return mean(spent[part]), mean(spent[BASELINE])

    def train(self) -> Row:
        """A row. Seconds are those of the CPU; those of a step and of the fit at the speed of `reference`."""
        part, seconds = self.spec["part"], self.spec.get("seconds")
        costs: Row = {"step_seconds": None} if seconds is None else self.costs(part, seconds)
        steps = self.spec["steps"] if seconds is None else int((seconds - costs["fit_seconds"]) / costs["step_seconds"])
        if steps < 1:
            needed = f"the fit to n-grams takes {costs['fit_seconds']:.1f}, and a step {costs['step_seconds']:.2f}"
            raise SystemExit(f"{seconds:g} CPU seconds are too few: {needed}")
        weights, fit = self.fit(part, steps)
        training, patch = self.build(part, steps, weights)
        return {"fit_seconds": fit, **costs, **self.updates(training, patch), **self.evaluate(training)}

    def costs(self, part: str, seconds: float) -> Row:
        """Of a step and of the fit, at the speed of `reference`: the baseline's in an earlier run.

        A part that does not change the fit is charged as much for it. Else the fit is made twice: which text it counts
        depends on the number of steps, and that on its cost.
        """
        own, baseline = self.step_seconds(part)
        reference = self.spec.get("reference")
        speed = reference["step_seconds"] / baseline if reference else 1.0
        if reference and not FIT_SETTINGS & PARTS[part].settings.keys():
            fit = reference["fit_seconds"]
        else:
            fit = self.fit(part, max(1, int(seconds / (own * speed))))[1] * speed
        return {"step_seconds": own * speed, "fit_seconds": fit}

    def fit(self, part: str, steps: int) -> tuple[Tensors | None, float]:
        """The weights after the fit to n-grams, if there is one, and its CPU seconds."""
        settings, begin = self.settings(part, steps), time.process_time()
        if not settings.train.ngram_steps:
            return None, 0.0
        weights = ngram_state(settings, self.machine, self.dataset.split("train")).weights
        return weights, time.process_time() - begin

    def updates(self, training: Training, patch: Patch | None) -> Row:
        begin = time.process_time()
        losses = [training.step(number).loss for number in range(training.settings.train.steps)]
        if patch:
            patch.finish()
        return {
            "steps": len(losses),
            "cpu_seconds": time.process_time() - begin,
            "train_loss": mean(losses[-LAST:]),
            "parameters": sum(p.numel() for p in training.step.model.parameters()),
        }

    def evaluate(self, training: Training) -> Row:
        """On pieces from all over the validation split, the same for every part."""
        ids = self.dataset.split("val").sample(self.spec["eval_tokens"])
        sample = Split("val", [ids], [np.zeros(1, dtype=np.int64)])
        result = evaluate_loss(training.step.model, sample, byte_lengths(self.dataset.tokenizer), self.machine)
        return {"bits_per_byte": result.bits_per_byte, "loss": result.loss, "dtype": self.machine.dtype}


def run(spec: Row) -> Row:
    try:
        return Run(spec).train()
    except NotApplicable as reason:
        return {"skipped": str(reason)}


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
