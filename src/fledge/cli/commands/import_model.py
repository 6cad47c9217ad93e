"""fledge import: import a model from another program."""

import argparse

from fledge.cli.arguments import Parser
from fledge.cli.output import report
from fledge.runs.names import run_word

EXAMPLES = (
    "fledge import openai-community/gpt2 --out gpt2",
    "fledge import out-shakespeare-char/ckpt.pt --characters input.txt --out nano",
    "fledge import damerajee/smallgpt",
    "fledge import checkpoint_33500.pt --preset smollgpt-130m",
)


def add_arguments(parser: Parser) -> None:
    source = (
        "a Hugging Face folder, a name on the Hub (OWNER/NAME, hf://OWNER/NAME/model.pt), a .gguf, or a checkpoint "
        "(.pt, .pth, .ckpt) of nanoGPT, smol-GPT, SmallGPT, SmollGPT, toyGPT or GPT from scratch"
    )
    parser.add_argument("source", metavar="SOURCE", help=source)
    parser.add_argument("--out", metavar="RUN", help="name or path of the new run (default: the source's name)")
    parser.add_argument("--tokenizer", metavar="FILE", help="a tokenizer.json, if the source has none; or gpt2, p50k")
    parser.add_argument(
        "--characters", metavar="TEXT", help="character models: the training text, to rebuild the vocabulary"
    )
    parser.add_argument(
        "--preset", metavar="NAME", help="a preset with the model's number of heads, if the file has none"
    )
    parser.add_argument("--model.n_head", dest="n_head", type=int, metavar="N", help="that number itself")


def run(args: argparse.Namespace) -> None:
    from fledge.recipes.import_model import import_model

    options = {"tokenizer": args.tokenizer, "characters": args.characters, "preset": args.preset, "n_head": args.n_head}
    result = import_model(args.source, args.out, args.runs, **options)
    run = run_word(result.folder)
    talk = f"fledge chat {run}" if result.has_chat_template else f"fledge generate {run} --prompt …"
    text = (
        f"'{result.run}' is a {result.kind} of {result.parameters:,} parameters, with {result.vocab_size:,} tokens\n"
        f"next: {talk} · fledge train my-notes/ --init {run}"
    )
    report(result, as_json=args.json, text=text)
