"""fledge doctor: what this machine is, and what fledge will use on it."""

import argparse

from fledge.cli.arguments import Parser
from fledge.cli.output import report

EXAMPLES = ("fledge doctor",)


def add_arguments(parser: Parser) -> None:
    """No arguments of its own."""


def run(args: argparse.Namespace) -> None:
    from fledge.recipes.doctor import doctor

    findings = doctor()
    width = max(map(len, findings))
    lines = [
        f"{name.replace('_', ' '):<{width}}  {finding.value}" + (f"  ({finding.why})" if finding.why else "")
        for name, finding in findings.items()
    ]
    report(findings, as_json=args.json, text="\n".join(lines))
