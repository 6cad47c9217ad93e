"""Tokens per second of rollouts, against the decoder alone (bench/decode.py) on the same model and slots.

    python bench/rollout.py [--sizes 5M tiny] [--slots 8 32] [--tokens 100] [--rounds 5]

A rollout is what an iteration of PPO or GRPO does: new weights into the decoder, prompts read, answers drawn at
temperature 1, tokens to text, log-probabilities. Its rate counts all of that time. The decoder alone decodes greedily
on the same path, without its prefill. First all answers have the same length, as in bench/decode.py; then they end
where the model ends them, and new ones take their slots. Both in turns, in one process; rates are those of the median
round. The tokens of the rollout are checked: the model itself, without a cache, must draw the same ones with the same
random numbers.
"""

import argparse
import time
from statistics import median

import numpy as np
import torch

from common import machine, versions
from decode import PROMPT, SHAPES, bench_tokenizer, greedy, make_model
from fledge.alignment.config import RolloutConfig
from fledge.alignment.rollout import Answer, Generator, choose_path, parse_path
from fledge.core.device import Machine, choose_machine, set_threads
from fledge.inference import rules
from fledge.inference.choose_decoder import build_decoder, synchronize
from fledge.inference.request import Sampling
from fledge.model.gpt import GPT
from fledge.tokenizers.base import Tokenizer
from fledge.tokenizers.hf import HFTokenizer

EPISODES = 4  # for each slot


@torch.no_grad()
def same_tokens(model: GPT, prompts: list[list[int]], seeds: list[int], answers: list[Answer], vocab: int) -> float:
    """Share of the tokens that the model draws with the same random numbers, each after the tokens before it."""
    same, count = 0, 0
    for prompt, seed, answer in zip(prompts, seeds, answers, strict=True):
        ids = torch.tensor([[*prompt, *answer.ids]], device=model.embed.weight.device)
        logits = model(ids[:, :-1])[0, len(prompt) - 1 :, :vocab].float()
        numbers = rules.uniform_numbers(
            np.full(len(answer.ids), seed, dtype=np.uint64), np.arange(len(answer.ids), dtype=np.uint64)
        )
        drawn = rules.draw(logits, torch.from_numpy(numbers)[:, None].to(logits.device))
        same += int((drawn == ids[0, len(prompt) :]).sum())
        count += len(answer.ids)
    return same / count


def tokenizers() -> dict[str, Tokenizer]:
    return {
        "equal lengths": HFTokenizer.train(["a text with few words"], 256, exact=False),
        "own ends": bench_tokenizer(),
    }


def compare(size: str, slots: int, here: Machine, ends: str, args: argparse.Namespace) -> None:
    tokenizer = tokenizers()[ends]
    model = make_model(SHAPES[size], here.device)
    vocab = tokenizer.vocab_size
    path = choose_path(model, here, slots)
    config = RolloutConfig(max_tokens=args.tokens, slots=slots, decoder=path)
    generate = Generator(config, here, tokenizer, ())
    decoder = build_decoder(model, parse_path(path, here), slots)
    chance = torch.Generator().manual_seed(0)
    prompts = torch.randint(250, (EPISODES * slots, PROMPT), generator=chance).tolist()
    seeds = list(range(len(prompts)))
    samplings = [Sampling(seed=seed) for seed in seeds]
    rates: dict[str, list[float]] = {"decoder": [], "rollout": []}
    answers: list[Answer] = []
    for turn in range(args.rounds + 1):
        set_threads(parse_path(path, here).threads, here.device)
        alone = greedy(decoder, torch.tensor(prompts[:slots], device=here.device), args.tokens, here)
        begun = time.perf_counter()
        answers = generate(model, prompts, samplings)
        synchronize(here)
        seconds = time.perf_counter() - begun
        if turn:
            rates["decoder"].append(slots * (args.tokens - 1) / alone.decode)
            rates["rollout"].append(sum(len(answer.ids) for answer in answers) / seconds)
    decoded, rolled = median(rates["decoder"]), median(rates["rollout"])
    few = slice(0, 8)
    share = same_tokens(model, prompts[few], seeds[few], answers[few], vocab)
    length = sum(len(answer.ids) for answer in answers) / len(answers)
    print(
        f"{size:>5}, {slots:3} slots, {ends:<13}, {path:<26} decoder {decoded:9,.0f} tokens/s   rollout {rolled:9,.0f}"
        f" tokens/s   {rolled / decoded:4.0%}   mean length {length:.0f}   same tokens {share:.1%}",
        flush=True,
    )
    if share < 0.99:
        raise SystemExit("the rollout draws other tokens than the model")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SHAPES, default=["5M"])
    parser.add_argument("--slots", nargs="+", type=int, default=[8, 32])
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="float32")
    args = parser.parse_args()
    here = choose_machine("auto", args.dtype)
    print(machine(), "|", versions("torch"), "|", f"{here.threads} threads, {here.dtype}")
    for size in args.sizes:
        for slots in args.slots:
            for ends in tokenizers():
                compare(size, slots, here, ends, args)


if __name__ == "__main__":
    main()
