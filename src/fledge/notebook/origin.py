"""The origin of a text in a notebook: the text with its copied passages marked, and where each of them stands."""

import html
import itertools

from fledge.insight.origin import Match, TextOrigin
from fledge.insight.suffix_array import covered
from fledge.recipes.provenance import find_origin
from fledge.runs.run_folder import RunFolder

SHOWN_STEPS = 8
MARK = "background:rgba(213,94,0,.22);border-radius:2px"


class ShownOrigin(TextOrigin):
    def _repr_html_(self) -> str:
        long = [(match.first, match.stop) for match in self.matches if match.steps and not match.ordinary]
        marked = covered(long, len(self.tokens))
        text = ""
        for mark, run in itertools.groupby(zip(self.tokens, marked.tolist(), strict=True), lambda each: each[1]):
            words = html.escape("".join(token for token, _ in run))
            text += f'<span style="{MARK}">{words}</span>' if mark else words
        rows = "".join(map(_row, self.matches))
        head = "".join(f"<th>{name}</th>" for name in ("passage", "tokens", "times", "document", "steps", "loss"))
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>" if rows else ""
        return (
            f"<p><b>{self.verdict.capitalize()}</b>: {html.escape(self.explanation)}.</p>"
            f'<p style="white-space:pre-wrap">{text}</p>{table}<p><small>{html.escape(self.caveat)}</small></p>'
        )


def _row(match: Match) -> str:
    place = match.occurrences[0]
    words = (match.text, match.stop - match.first, match.count, place.document, listed_steps(match), loss_change(match))
    return f"<tr>{''.join(f'<td>{html.escape(str(word))}</td>' for word in words)}</tr>"


def listed_steps(match: Match) -> str:
    shown = ", ".join(f"{step:,}" for step in match.steps[:SHOWN_STEPS])
    return shown + (f", … ({len(match.steps):,} steps)" if len(match.steps) > SHOWN_STEPS else "") or "none"


def loss_change(match: Match) -> str:
    """3.21 → 2.90, at the checkpoints around the first step that learned the passage."""
    steps = [each.step for each in match.occurrences[0].exposures]
    if not steps or not match.losses:
        return ""
    before, after = match.loss_around(steps[0])
    return " → ".join("?" if each is None else f"{each.loss:.2f}" for each in (before, after))


def read_origin(run: RunFolder, text: str) -> ShownOrigin:
    """Where a text comes from, as the API shows it."""
    return ShownOrigin(**vars(find_origin(run, text)))
