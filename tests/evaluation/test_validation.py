"""The evaluations of a training run: the sample, the whole split, another checkpoint's weights."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from fledge.checkpoint.state import weights_of
from fledge.core.device import Machine
from fledge.core.signals import StopRequested
from fledge.datasets.cache import ensure_dataset
from fledge.datasets.shards import Dataset
from fledge.evaluation.loss import evaluate_loss
from fledge.evaluation.validation import Schedule, Validation
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.init import build
from fledge.settings.pipeline import validated
from fledge.tokenizers.base import byte_lengths
from tiny import write_text

CPU = Machine("cpu", "float32")


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path / "cache"))
    corpus = str(write_text(tmp_path / "text"))
    settings = validated({"data": {"val": 0.3, "corpus": corpus}, "tokenizer": {"kind": "char"}})
    return ensure_dataset(settings.data, settings.tokenizer)


def make_model(dataset: Dataset, seed: int = 0) -> GPT:
    vocab_size = dataset.tokenizer.vocab_size
    return build(ModelConfig(n_layer=1, n_head=2, n_embd=16, context=16, vocab_size=vocab_size), seed)


def make_validation(dataset: Dataset, model: GPT, tokens: int | None, step_tokens: int = 4096) -> Validation:
    return Validation(model, dataset, CPU, Schedule(20, step_tokens, 5, tokens), iter)


def test_sample_is_evaluated_often_and_the_whole_split_at_the_end(dataset: Dataset) -> None:
    model = make_model(dataset)
    validation = make_validation(dataset, model, 320)
    assert validation.every == 5
    sample, whole = validation.evaluate_sample(), validation.evaluate_whole()
    assert 300 <= sample.tokens <= 320 < whole.tokens == len(dataset.split("val")) - 1
    assert sample.margin is not None
    assert abs(sample.loss - whole.loss) < 2 * sample.margin
    assert (sample.fraction, whole.fraction, whole.margin) == (sample.tokens / whole.tokens, 1, None)
    assert whole == evaluate_loss(model, dataset.split("val"), byte_lengths(dataset.tokenizer), CPU)
    assert validation.whole_split_passes == pytest.approx(2 * whole.tokens / sample.tokens)
    (notice,) = validation.notices()
    assert f"a sample of {sample.tokens:,} of {whole.tokens:,} tokens, every 5 steps" in notice


def test_one_window_is_a_sample_without_a_margin(dataset: Dataset) -> None:
    sample = make_validation(dataset, make_model(dataset), 16).evaluate_sample()
    assert (sample.tokens, sample.margin) == (16, None)
    assert 0 < sample.fraction < 1


def test_sample_as_large_as_the_split_is_the_split(dataset: Dataset) -> None:
    validation = make_validation(dataset, make_model(dataset), 10**6)
    assert validation.evaluate_sample() == validation.evaluate_whole()
    assert not validation.is_sampled
    assert validation.whole_split_passes == 0


def test_whole_split_is_not_evaluated_where_the_run_is_far_shorter(dataset: Dataset) -> None:
    validation = make_validation(dataset, make_model(dataset), 320, step_tokens=1)
    assert validation.whole_split_passes == 0
    assert "fledge eval" in next(iter(validation.notices()))


def test_other_weights_are_evaluated_and_the_models_own_are_kept(dataset: Dataset) -> None:
    model, other = make_model(dataset), make_model(dataset, 1)
    before = {name: weight.clone() for name, weight in weights_of(model).items()}
    found = make_validation(dataset, model, 320).evaluate_whole(weights_of(other))
    assert found == make_validation(dataset, other, 320).evaluate_whole()
    assert all(torch.equal(weight, before[name]) for name, weight in weights_of(model).items())


def interrupted(batches: Sequence[int]) -> Iterator[int]:
    yield batches[0]
    raise StopRequested


def test_own_weights_are_restored_after_an_interruption(dataset: Dataset) -> None:
    model = make_model(dataset)
    before = model.embed.weight.detach().clone()
    validation = Validation(model, dataset, CPU, Schedule(20, 4096, 5, 320), interrupted)
    with pytest.raises(StopRequested):
        validation.evaluate_whole(weights_of(make_model(dataset, 1)))
    assert torch.equal(model.embed.weight, before)


def test_split_without_text_or_interval_zero_is_never_evaluated(dataset: Dataset) -> None:
    model = make_model(dataset)
    never = Validation(model, dataset, CPU, Schedule(20, 64, 0, 320), iter)
    assert never.every == 0
    assert list(never.notices()) == []
    assert np.isclose(never.whole_split_passes, 0)
