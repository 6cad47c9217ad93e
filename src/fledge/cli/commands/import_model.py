"""fledge import: import a model from another program."""

import argparse

from fledge.cli.arguments import Parser
from fledge.cli.output import report
from fledge.runs.names import run_word

EXAMPLES = (
    "fledge import openai-community/gpt2 --out gpt2",
    "fledge import out-shakespeare-char/ckpt.pt --characters input.txt --out nano",
)


def add_arguments(parser: Parser) -> None:
    source = "a Hugging Face folder, a name on the Hub, nanoGPT's ckpt.pt, or a .gguf"
    parser.add_argument("source", metavar="SOURCE", help=source)
    parser.add_argument("--out", metavar="RUN", help="name or path of the new run (default: the source's name)")
    parser.add_argument("--tokenizer", metavar="FILE", help="a tokenizer.json, if the source has none; or gpt2")
    parser.add_argument(
        "--characters", metavar="TEXT", help="nanoGPT char models: the training text, to rebuild the vocabulary"
    )


def run(args: argparse.Namespace) -> None:
    from fledge.recipes.import_model import import_model

    result = import_model(args.source, args.out, args.runs, tokenizer=args.tokenizer, characters=args.characters)
    run = run_word(result.folder)
    talk = f"fledge chat {run}" if result.has_chat_template else f"fledge generate {run} --prompt …"
    text = (
        f"'{result.run}' is a {result.kind} of {result.parameters:,} parameters, with {result.vocab_size:,} tokens\n"
        f"next: {talk} · fledge train my-notes/ --init {run}"
    )
    report(result, as_json=args.json, text=text)
