"""A model aligned here says the same in fledge chat, in transformers, in llama.cpp and through fledge serve."""

import io
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fledge.cli.main import main
from fledge.tokenizers.chat_template import Message
from tiny import TINY_TOML, write_text

transformers = pytest.importorskip("transformers")

TOKENS = 30
QUESTIONS = ("what does the fox do", "what does the dog do", "who is lazy")
ANSWERS = {
    QUESTIONS[0]: "the quick brown fox jumps over the dog",
    QUESTIONS[1]: "it sleeps until the fox jumps",
    QUESTIONS[2]: "the dog",
}
REWARD = "def reward(prompt, answer, target):\n    return float(answer.strip() == target) + answer.count('o') / 10\n"
LLAMA = "--model.n_embd=32 --model.context=64 --model.qk_norm=false --tokenizer.kind=bpe --tokenizer.vocab_size=290"
SHORT = "--train.eval_every=0 --train.sample_every=0 --train.dtype=float32 --align.val=2"


class Aligned:
    def __init__(self, folder: Path) -> None:
        self.folder, self.runs = folder, folder / "runs"

    def do(self, *words: str) -> None:
        assert main([*words, "--runs", str(self.runs)]) == 0

    def train(self) -> None:
        """Pretraining, SFT, and a few steps of GRPO with a reward file."""
        write_text(self.folder / "text")
        (self.folder / "tiny.toml").write_text(TINY_TOML)
        chance = random.Random(0)
        rows = [{"prompt": q, "completion": ANSWERS[q]} for q in chance.choices(QUESTIONS, k=60)]
        data, reward = self.folder / "chats.jsonl", self.folder / "reward.py"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        reward.write_text(REWARD)
        words = ["train", str(self.folder / "tiny.toml"), str(self.folder / "text"), *LLAMA.split()]
        self.do(*words, "--run", "base", "--train.steps=20", "--train.sample_every=0")
        given = ["--data", str(data), *SHORT.split()]
        self.do("align", "sft", "--init", "base", *given, "--run", "sft", "--train.steps=60", "--optim.lr=0.01")
        rollout = ["--rollout.prompts=8", "--rollout.max_tokens=10", "--rollout.slots=8", "--grpo.group=2"]
        more = ["--train.steps=4", "--train.batch=16", "--optim.lr=0.001", *rollout, "--reward", str(reward)]
        self.do("align", "grpo", "--init", "sft", *given, "--run", "grpo", *more, "--rollout.temperature=2")


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aligned]:
    folder = tmp_path_factory.mktemp("aligned")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLEDGE_CACHE", str(folder / "cache"))
        made = Aligned(folder)
        made.train()
        yield made


@pytest.fixture(scope="module")
def answers(aligned: Aligned) -> list[str]:
    """What `fledge chat` answers to each question alone."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        for question in QUESTIONS:
            out = io.StringIO()
            patch.setattr(sys, "stdin", io.StringIO(question))
            patch.setattr(sys, "stdout", out)
            aligned.do("chat", "grpo", "--greedy", "--tokens", str(TOKENS), "--json", "--dtype", "float32")
            found.append(json.loads(out.getvalue())["messages"][-1]["content"])
    return found


def ask(question: str) -> list[Message]:
    return [{"role": "user", "content": question}]


def test_chat_has_learned_the_answers(answers: list[str]) -> None:
    assert answers == [ANSWERS[question] for question in QUESTIONS]


def test_same_answers_in_transformers(aligned: Aligned, answers: list[str]) -> None:
    folder = aligned.folder / "hf"
    aligned.do("export", "grpo", "--to", "hf", "--out", str(folder))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    for question, answer in zip(QUESTIONS, answers, strict=True):
        ids = tokenizer.apply_chat_template(ask(question), add_generation_prompt=True, return_tensors="pt")["input_ids"]
        made = model.generate(ids, do_sample=False, max_new_tokens=TOKENS)[0, ids.shape[1] :]
        assert tokenizer.decode(made, skip_special_tokens=True) == answer


def test_same_answers_in_llama_cpp(aligned: Aligned, answers: list[str]) -> None:
    library = pytest.importorskip("xllamacpp")
    folder = aligned.folder / "gguf"
    aligned.do("export", "grpo", "--to", "gguf", "--dtype", "f32", "--out", str(folder))
    params = library.CommonParams()
    params.model.path, params.n_ctx, params.verbosity, params.warmup = str(next(folder.glob("*.gguf"))), 64, -1, False
    server = library.Server(params)
    for question, answer in zip(QUESTIONS, answers, strict=True):
        body = {"messages": ask(question), "max_tokens": TOKENS, "temperature": 0}
        found: dict[str, Any] = server.handle_chat_completions(body)
        assert found["choices"][0]["message"]["content"] == answer


def test_same_answers_through_serve(aligned: Aligned, answers: list[str]) -> None:
    openai = pytest.importorskip("openai")
    pytest.importorskip("uvicorn")
    from .test_serve import Serve

    serve = Serve(aligned.runs, "grpo", "--dtype", "float32")
    try:
        client = openai.OpenAI(base_url=f"{serve.url}/v1", api_key="none", max_retries=0)
        for question, answer in zip(QUESTIONS, answers, strict=True):
            found = client.chat.completions.create(
                model="grpo", messages=ask(question), temperature=0, max_tokens=TOKENS
            )
            assert found.choices[0].message.content == answer
            assert found.choices[0].finish_reason == "stop"
    finally:
        serve.stop()
