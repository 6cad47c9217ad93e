"""fledge generate: continue prompts, printed as they are generated."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from fledge.cli.arguments import Parser, add_generation_arguments, add_run_argument, sampling_of, stop_strings
from fledge.cli.output import report, to_plain, token_text
from fledge.cli.prompts import read_prompts, read_stdin
from fledge.core.errors import UserError
from fledge.core.files import to_json
from fledge.core.formatting import printable
from fledge.core.progress import notice

if TYPE_CHECKING:
    from fledge.inference.request import TokenLogprob
    from fledge.recipes.generate import GeneratedText, Generating
    from fledge.tokenizers.base import Tokenizer

EXAMPLES = (
    "fledge generate hamlet --prompt 'To be'",
    "fledge generate hamlet@1000 --greedy --tokens 100",
    "fledge generate hamlet --prompts questions.txt --jsonl > answers.jsonl",
)


def add_arguments(parser: Parser) -> None:
    parser.shorten_usage("[RUN] [--prompt TEXT]")
    add_run_argument(parser)
    parser.add_argument("--prompt", metavar="TEXT", help="beginning of the text (-: stdin)")
    prompts = 'a prompt in each line, or JSONL: {"prompt": "…"}'
    parser.add_argument("--prompts", metavar="FILE", help=prompts)
    parser.add_argument("--n", type=int, default=1, metavar="N", help="texts for each prompt, with the seeds S, S+1, …")
    add_generation_arguments(parser, tokens=300)
    begin = "a special token first, such as '<|startoftext|>'"
    parser.add_argument("--begin-with", metavar="TOKEN", help=begin)
    further = "go on after the end-of-text token"
    parser.add_argument("--ignore-end-of-text", action="store_true", help=further)
    parser.add_argument("--logprobs", type=int, metavar="K", help="log-probabilities, with K alternatives each")
    parser.add_argument("--jsonl", action="store_true", help="print one JSON record for each text")
    parser.add_argument("--verbose", action="store_true", help="say how the text is computed, and how fast")


def run(args: argparse.Namespace) -> None:
    from fledge.recipes.generate import generate

    if args.json and args.jsonl:
        raise UserError("--json and --jsonl exclude each other", "--json is one document, --jsonl one for each text")
    generating = generate(
        args.run,
        prompts_of(args),
        runs=args.runs,
        tokens=args.tokens,
        sampling=sampling_of(args),
        stop=stop_strings(args),
        past_context=args.past_context,
        begin_with=args.begin_with,
        ignore_end_of_text=args.ignore_end_of_text,
        n=args.n,
        logprobs=args.logprobs,
        device=args.device,
        dtype=args.dtype,
    )
    if args.verbose:
        notice(f"measured path: {generating.choice.describe()}")
    if args.json:
        print_document(generating)
    elif args.jsonl:
        for text in generating.texts():
            print(to_json({**origin(generating), **record(text, generating.tokenizer)}), flush=True)
    else:
        print_texts(generating)
    if args.verbose and generating.tokens_per_second:
        speed = f"{generating.tokens:,} tokens in {generating.seconds:.2f} s: {generating.tokens_per_second:,.1f}"
        notice(f"{speed} tokens/s, with the time to read the prompts")


def prompts_of(args: argparse.Namespace) -> list[str] | None:
    if args.prompts is not None:
        if args.prompt is not None:
            raise UserError("--prompt and --prompts exclude each other", "add the prompt to the file")
        return read_prompts(args.prompts)
    if args.prompt == "-":
        return [read_stdin()]
    return None if args.prompt is None else [args.prompt]


def origin(generating: "Generating") -> dict[str, Any]:
    path = generating.choice.path
    return {"run": generating.run, "step": generating.step, "path": str(path), "dtype": path.dtype}


def record(text: "GeneratedText", tokenizer: "Tokenizer") -> dict[str, Any]:
    """A text as plain data, with the log-probabilities only where they were wanted."""
    plain = to_plain(text)
    del plain["logprobs"]
    if text.logprobs is not None:
        plain["logprobs"] = [
            {**scored(each.token, each.logprob, tokenizer), "top": [scored(*other, tokenizer) for other in each.top]}
            for each in text.logprobs
        ]
    return dict(plain)


def scored(token: int, logprob: float, tokenizer: "Tokenizer") -> dict[str, Any]:
    text = tokenizer.id_to_bytes(token).decode(errors="replace")
    return {"id": token, "token": text, "logprob": logprob}


def print_document(generating: "Generating") -> None:
    """One text: its own keys. Several: a list under "texts", and the number of all tokens."""
    texts = [record(text, generating.tokenizer) for text in generating.texts()]
    content = texts[0] if len(texts) == 1 else {"texts": texts, "tokens": generating.tokens}
    speed = {"tokens_per_second": generating.tokens_per_second}
    report({**origin(generating), **content, **speed}, as_json=True, text="")


def print_texts(generating: "Generating") -> None:
    """One text: its prompt, then each piece as soon as it is generated. Several: each with a heading."""
    show = printable if sys.stdout.isatty() else str
    if (count := len(generating.prompts)) > 1:
        for number, text in enumerate(generating.texts(), start=1):
            print(f"--- {number} of {count} ---\n{show(text.prompt)}{show(text.text)}", flush=True)
            print_logprobs(text.logprobs or [], generating.tokenizer)
        return
    print(show(generating.prompts[0]), end="", flush=True)
    logprobs: list[TokenLogprob] = []
    try:
        for _, chunk in generating.chunks():
            print(show(chunk.text), end="", flush=True)
            logprobs += chunk.logprobs
    finally:  # after Ctrl-C, too
        print(flush=True)
    print_logprobs(logprobs, generating.tokenizer)


def print_logprobs(logprobs: "list[TokenLogprob]", tokenizer: "Tokenizer") -> None:
    """A line for each token: its log-probability, and the alternatives with theirs."""
    if logprobs:
        print("\n logprob  token               alternatives")
    for each in logprobs:
        token, *others = (
            repr(token_text(tokenizer.id_to_bytes(i)) or "end of text") for i in (each.token, *(i for i, _ in each.top))
        )
        top = "  ".join(f"{other} {score:.2f}" for other, (_, score) in zip(others, each.top, strict=True))
        print(f"{each.logprob:8.3f}  {token:<18}  {top}".rstrip())
