"""The choice of a decoder: the fastest path that computes the same, remembered; wrong and failing ones are dropped."""

from pathlib import Path as File
from typing import Any

import pytest
import torch

from fledge.core import device as machines
from fledge.core.device import Machine
from fledge.core.errors import UserError
from fledge.inference import choose_decoder as choice
from fledge.inference.choose_decoder import DecoderChoice, Path, choose_decoder
from fledge.inference.linear import LINEARS, make_plain
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.init import build

CPU = Machine("cpu", "float32")
PLAIN, PACKED, HALF = Path("plain", "float32", 1), Path("packed", "float32", 1), Path("packed", "bfloat16", 1)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: File, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path))
    monkeypatch.setattr(choice, "memory_bandwidth", lambda _: 1e10)
    monkeypatch.setattr(choice, "is_busy", lambda: False)
    threads = torch.get_num_threads()
    monkeypatch.setattr(machines, "THREADS_OF_TORCH", threads)


@pytest.fixture
def model() -> GPT:
    return build(ModelConfig(n_layer=1, n_head=2, n_embd=32, context=32, vocab_size=50), 0)


def measured(**seconds_and_errors: tuple[float, float]) -> dict[str, float]:
    found = dict[str, float]()
    for name, (seconds, error) in seconds_and_errors.items():
        path = {"plain": PLAIN, "packed": PACKED, "half": HALF}[name]
        found |= {f"{path} seconds": seconds, f"{path} error": error}
    return found


def taken(model: GPT, **found: tuple[float, float]) -> DecoderChoice:
    return choice.best(model, CPU, 2, [PLAIN, PACKED, HALF], measured(**found))


def test_fastest_correct_path_is_taken(model: GPT) -> None:
    found = taken(model, plain=(0.010, 0.0), packed=(0.005, 1e-6), half=(0.0045, 0.01))
    assert found.path == PACKED  # bfloat16 is not fast enough to be worth its rounding
    assert found.tokens_per_second == pytest.approx(400)
    assert found.rejected == {str(PLAIN): "200 tokens/s", str(HALF): "444 tokens/s"}
    assert found.describe().startswith("packed float32, 1 thread: 400 tokens/s with 2 rows, ")
    assert taken(model, plain=(0.010, 0.0), packed=(0.005, 1e-6), half=(0.004, 0.01)).path == HALF


def test_wrong_and_failing_paths_are_rejected_with_a_reason(model: GPT) -> None:
    found = taken(model, plain=(0.010, 0.0), packed=(0.001, 0.02), half=(choice.FAILED, choice.FAILED))
    assert found.path == PLAIN
    assert found.rejected == {str(PACKED): "its logits are off by 2.0 %", str(HALF): "failed"}


@pytest.mark.parametrize(
    ("failure", "raised", "message"),
    [(RuntimeError("no"), UserError, "cannot run this model"), (MemoryError(), MemoryError, None)],
)
def test_failure_of_all_paths_is_not_remembered(
    model: GPT, failure: Exception, raised: type[Exception], message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(choice, "build_decoder", fail)
        with pytest.raises(raised, match=message):
            choose_decoder(model, CPU, 1, "float32")
    choose_decoder(model, CPU, 1, "float32")


def test_a_wrong_product_is_never_chosen(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(weight: Any, bias: Any) -> Any:
        product = make_plain(weight, bias)
        return lambda x: product(x).mul(1.01)

    monkeypatch.setitem(LINEARS, "packed", wrong)
    found = choice.decide(model, CPU, 1, "float32")
    assert found.path.kind == "plain"
    assert next(reason for path, reason in found.rejected.items() if "packed" in path).startswith("its logits are off")


def test_second_start_measures_nothing(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    first: list[DecoderChoice] = []
    choose_decoder(model, CPU, 2, "float32", first.append)
    monkeypatch.setattr(choice, "measure", lambda *_: pytest.fail("measured again"))
    second: list[DecoderChoice] = []
    decoder = choose_decoder(model, CPU, 2, "float32", second.append)
    assert first == second
    assert torch.get_num_threads() == first[0].path.threads
    assert (decoder.name, decoder.slots) == (first[0].path.name, 2)


def test_missing_operators_leave_the_plain_path(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: Any) -> Any:
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_linear_pointwise'")

    monkeypatch.setitem(LINEARS, "packed", absent)
    found = choice.decide(model, CPU, 1, "float32")
    assert found.path.kind == "plain"
    assert "failed" in found.rejected.values()


def test_a_model_that_diverged_gets_a_decoder(model: GPT) -> None:
    with torch.no_grad():
        model.norm.weight.fill_(float("nan"))  # type: ignore[union-attr, operator]
    decoder = choose_decoder(model, CPU, 1, "float32")
    assert decoder.decode(torch.tensor([3]), [0]).isnan().all()


def test_context_of_one_token() -> None:
    tiny = build(ModelConfig(n_layer=1, n_head=1, n_embd=8, context=1, vocab_size=5), 0)
    decoder = choose_decoder(tiny, CPU, 1, "float32")
    with torch.no_grad():
        expected = tiny(torch.tensor([[3]]))[0]
    torch.testing.assert_close(decoder.decode(torch.tensor([3]), [0]), expected)


def test_int8_reports_its_divergence(model: GPT) -> None:
    found: list[DecoderChoice] = []
    try:
        choose_decoder(model, CPU, 1, "int8", found.append)
    except UserError as error:
        pytest.skip(f"no int8 here: {error}")
    assert found[0].path.dtype == "int8"
    assert found[0].divergence is not None
    assert 0 <= found[0].divergence < 0.01
    assert "KL divergence" in found[0].describe()


def test_unknown_dtype_is_refused(model: GPT) -> None:
    with pytest.raises(UserError, match="cannot be 'int3'"):
        choose_decoder(model, CPU, 1, "int3")
    with pytest.raises(UserError, match="for CPUs only"):
        choice.wanted_dtypes(Machine("cuda", "bfloat16"), "int8")


def test_bandwidth_is_that_of_all_threads(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the process that has just measured paths with one thread."""
    seen: list[int] = []

    def memory_bandwidth(_: Machine) -> float:
        seen.append(torch.get_num_threads())
        return 1e10

    monkeypatch.setattr(choice, "memory_bandwidth", memory_bandwidth)
    monkeypatch.setattr(machines, "default_threads", lambda _: 2)
    before = torch.get_num_threads()
    try:
        for _ in range(2):
            choose_decoder(model, CPU, 1, "float32")
    finally:
        torch.set_num_threads(before)
    assert seen == [2, 2]
