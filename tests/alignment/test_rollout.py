"""Rollouts: the answers are the policy's, an episode depends on its seed alone, and new weights are used at once."""

import copy
from dataclasses import replace

import pytest
import torch

from aligning import TINY, TOKENIZER, make_setup, policy, questions
from families import FAMILIES, MODELS, make_model
from fledge.alignment.config import RolloutConfig
from fledge.alignment.rollout import (
    Answer,
    Generator,
    choose_path,
    encode_prompts,
    parse_path,
    to_batch,
    width,
    with_path,
)
from fledge.core.device import Machine
from fledge.core.errors import UserError
from fledge.inference.choose_decoder import Path, build_decoder, build_lean
from fledge.inference.graph_decoder import GraphDecoder
from fledge.inference.request import Sampling
from fledge.losses.cross_entropy import IGNORE
from tiny_chat import END, chat_template

MACHINE = Machine("cpu", "float32")
TEMPLATE = chat_template(TOKENIZER)
PLAIN = "plain float32, 1 thread"
SETUP = make_setup()
MODEL = policy(SETUP)
PROMPTS = [prompt.ids for prompt in encode_prompts(questions(6), TEMPLATE, 30)]


def generator(slots: int = 4, decoder: str = PLAIN, max_tokens: int = 6) -> Generator:
    config = RolloutConfig(slots=slots, decoder=decoder, max_tokens=max_tokens)
    return Generator(config, MACHINE, TOKENIZER, TEMPLATE.stop_tokens)


def samplings(count: int, first: int = 0) -> list[Sampling]:
    return [Sampling(seed=first + i) for i in range(count)]


def test_answers_are_greedy_tokens_of_the_model() -> None:
    answers = generator()(MODEL, PROMPTS, [Sampling(temperature=0)] * len(PROMPTS))
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        ids = list(prompt)
        for token in answer.ids:
            with torch.no_grad():
                assert int(MODEL(torch.tensor([ids]))[0, -1].argmax()) == token
            ids.append(token)
        assert answer.truncated == (END not in answer.ids)
        assert len(answer.ids) == 6 or answer.ids[-1] == END


def test_episode_depends_on_its_seed_and_prompt_alone() -> None:
    together = generator(slots=4)(MODEL, PROMPTS, samplings(len(PROMPTS)))
    alone = [generator(slots=1)(MODEL, [ids], [each])[0] for ids, each in zip(PROMPTS, samplings(6), strict=True)]
    assert [a.ids for a in together] == [a.ids for a in alone]
    other = generator(slots=4)(MODEL, PROMPTS, samplings(len(PROMPTS), first=100))
    assert [a.ids for a in together] != [a.ids for a in other]


def test_new_weights_are_used_and_nothing_stays_in_the_cache() -> None:
    generate, model = generator(), copy.deepcopy(MODEL)
    before = generate(model, PROMPTS, samplings(6))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape) * 0.3)
    after = generate(model, PROMPTS, samplings(6))
    assert after == generator()(model, PROMPTS, samplings(6))
    assert [a.ids for a in after] != [a.ids for a in before]


def test_training_mode_and_threads_stay_as_they_were() -> None:
    model, threads = copy.deepcopy(MODEL).train(), torch.get_num_threads()
    generator(decoder="plain float32, 1 thread")(model, PROMPTS, samplings(6))
    assert model.training
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("family", FAMILIES)
def test_graph_decoder_takes_new_weights_in_place(family: str) -> None:
    """On a CPU the same code runs without a graph."""
    config, path = FAMILIES[family], Path("CUDA graph, sdpa,", "float32", 1)
    old, new = copy.deepcopy(MODELS[family]), make_model(replace(config))
    with torch.no_grad():
        for p in new.parameters():
            p.mul_(0.7)
    decoder, expected = build_decoder(old, path, 2), build_decoder(new, path, 2)
    assert isinstance(decoder, GraphDecoder)
    pointers = [tensor.data_ptr() for tensor in decoder.model.tensors]
    decoder.model.copy_(build_lean(new, path))
    assert pointers == [tensor.data_ptr() for tensor in decoder.model.tensors]
    for each in (decoder, expected):
        each.prefill(0, 0, torch.tensor([1, 2, 3]))
    tokens = torch.tensor([4, 5])
    assert torch.equal(decoder.decode(tokens, [3, 0]), expected.decode(tokens, [3, 0]))


def test_path_is_recorded_in_the_precision_of_training() -> None:
    chosen = choose_path(MODEL, MACHINE, 2)
    assert parse_path(chosen, MACHINE).dtype == "float32"
    assert str(parse_path("packed float32, 2 threads", MACHINE)) == "packed float32, 2 threads"


def test_path_is_chosen_once_for_the_settings_of_a_run() -> None:
    setup = make_setup("ppo", {"rollout": {"decoder": "auto"}, "model": {"value_head": True, "lora": 2}})
    recorded = with_path(setup.settings, MACHINE)
    assert parse_path(recorded.rollout.decoder, MACHINE)
    assert with_path(recorded, MACHINE) is recorded
    without = make_setup("dpo").settings
    assert with_path(without, MACHINE) is without


def test_adapters_are_merged() -> None:
    setup = make_setup("ppo", {"model": {"lora": 2, "value_head": True}})
    model = policy(setup)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("lora_b"):
                weight.normal_()
    answers = generator()(model, PROMPTS[:2], [Sampling(temperature=0)] * 2)
    for prompt, answer in zip(PROMPTS, answers, strict=False):
        ids = torch.tensor([[*prompt, *answer.ids]])
        with torch.no_grad():
            assert model(ids[:, :-1])[0, len(prompt) - 1 :].argmax(-1).tolist() == list(answer.ids)


@pytest.mark.parametrize("text", ["packed bfloat16, 1 thread", "fast float32, 1 thread", "packed float32", ""])
def test_unknown_path_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"rollout\.decoder") as caught:
        parse_path(text, MACHINE)
    assert PLAIN in caught.value.hint


def test_targets_are_the_tokens_of_the_answer() -> None:
    answers = [Answer((7, END), "x", False, (-1.0, -2.0)), Answer((8, 9, 10), "y", True, (-3.0, -4.0, -5.0))]
    prompts = [(1, 2, 3), (4, 5)]
    batch = to_batch(prompts, answers, [0.5, -1.0], width(prompts, answers) + 1)
    i = IGNORE
    assert batch.inputs.tolist() == [[1, 2, 3, 7, 0], [4, 5, 8, 9, 0]]
    assert batch.targets.tolist() == [[i, i, 7, END, i], [i, 8, 9, 10, i]]
    assert batch.extra["engine_logprobs"].tolist() == [[0, 0, -1, -2, 0], [0, -3, -4, -5, 0]]
    assert batch.extra["rewards"].tolist() == [0.5, -1.0]
    assert batch.extra["truncated"].tolist() == [0, 1]


def test_prompts_that_leave_no_room_are_not_used(capsys: pytest.CaptureFixture[str]) -> None:
    ids = [len(TEMPLATE.encode(each.messages)) for each in questions(6)]
    kept = encode_prompts(questions(6), TEMPLATE, min(ids))
    assert len(kept) == ids.count(min(ids))
    assert f"{6 - len(kept)} of 6 prompts have more than {min(ids)} tokens" in capsys.readouterr().err
    with pytest.raises(UserError, match="none of the 6 prompts leaves room"):
        encode_prompts(questions(6), TEMPLATE, min(ids) - 1)


def test_context_holds_the_longest_episode() -> None:
    assert TINY["rollout"]["max_tokens"] + max(map(len, PROMPTS)) - 1 <= SETUP.settings.model.context
