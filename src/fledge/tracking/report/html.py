"""A report as one HTML file: no script, no font, no image and no address outside of it."""

from importlib import resources

from fledge.tracking.report.blocks import Block, Charts, Commands, Facts, Folded, Note, Page, Samples, Section, Table
from fledge.tracking.report.chart import key, svg
from fledge.tracking.report.data import Chart, Report
from fledge.tracking.report.escape import escape_html
from fledge.tracking.report.layout import lay_out

POLICY = "default-src 'none'; style-src 'unsafe-inline'"  # nothing is loaded, and nothing runs


def render_html(report: Report) -> str:
    page = lay_out(report)
    style = (resources.files("fledge.tracking.report") / "style.css").read_text(encoding="utf-8")
    links = "".join(f'<a href="#{each.name}">{escape_html(each.title)}</a>' for each in page.sections)
    sections = "\n".join(map(_section, page.sections))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="color-scheme" content="light dark">
<title>{escape_html(page.title)} · fledge report</title>
<style>
{style}</style>
</head>
<body>
<header>
{_header(page)}
<nav aria-label="Sections">{links}</nav>
</header>
<main>
{sections}
</main>
<footer>Written by fledge report.</footer>
</body>
</html>
"""


def _header(page: Page) -> str:
    tiles = "".join(
        f"<div><dt>{escape_html(name)}</dt><dd>{escape_html(value)}</dd></div>" for name, value in page.headline
    )
    return (
        f'<p class="state {page.tone}">{escape_html(page.state)}</p>\n<h1><bdi>{escape_html(page.title)}</bdi></h1>\n'
        f'<p class="subtitle">{escape_html(page.subtitle)}</p>\n<dl class="tiles">{tiles}</dl>'
    )


def _section(section: Section) -> str:
    blocks = "\n".join(map(_block, section.blocks))
    return f'<section id="{section.name}">\n<h2>{escape_html(section.title)}</h2>\n{blocks}\n</section>'


def _block(block: Block) -> str:
    match block:
        case Facts(rows):
            pairs = "".join(f"<div><dt>{escape_html(name)}</dt><dd>{_value(value)}</dd></div>" for name, value in rows)
            return f'<dl class="facts">{pairs}</dl>'
        case Table():
            return _table(block)
        case Note(text, warning):
            return f'<p class="{"warning" if warning else "note"}">{escape_html(text)}</p>'
        case Commands(lines):
            return f'<pre class="commands" tabindex="0"><code>{escape_html(chr(10).join(lines))}</code></pre>'
        case Charts(charts):
            figures = "".join(_figure(chart, place) for place, chart in enumerate(charts))
            return f'<div class="charts">{figures}</div>'
        case Samples():
            return _samples(block)
        case Folded(title, inner):
            return f"<details><summary>{escape_html(title)}</summary>{_block(inner)}</details>"


def _value(value: str) -> str:
    """Hashes and paths may be broken anywhere."""
    return f"<bdi>{escape_html(value)}</bdi>"


def _table(table: Table) -> str:
    def cell(tag: str, place: int, text: str) -> str:
        names = [name for name, places in (("number", table.numeric), ("mono", table.mono)) if place in places]
        kind = f' class="{" ".join(names)}"' if names else ""
        return f"<{tag}{kind}>{_value(text)}</{tag.partition(' ')[0]}>"

    head = "".join(cell('th scope="col"', place, name) for place, name in enumerate(table.columns))
    rows = ("".join(cell("td", place, text) for place, text in enumerate(row)) for row in table.rows)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _figure(chart: Chart, number: int) -> str:
    start = max(max(curve.y) for curve in chart.curves)
    note = f'<span class="cut">starts at {start:,.4g}</span>' if start > chart.high else ""
    keys = [
        (key(chart, place), f"{curve.label or curve.metric.partition('/')[0]}{_best(chart, place)}")
        for place, curve in enumerate(chart.curves)
        if curve.label or curve.best is not None
    ]
    if chart.marks and number == 0:
        keys.append(('<path class="mark" d="M11 0L11 10"/>', "rolled back"))
    legend = "".join(
        f'<li><svg viewBox="0 0 22 10" aria-hidden="true">{picture}</svg>{escape_html(label)}</li>'
        for picture, label in keys
    )
    caption = f"<b>{escape_html(chart.label)}</b>{note}{f'<ul>{legend}</ul>' if legend else ''}"
    return f"<figure><figcaption>{caption}</figcaption>{svg(chart, number)}</figure>"


def _best(chart: Chart, place: int) -> str:
    curve = chart.curves[place]
    return "" if curve.best is None else f" (best {curve.y[curve.best]:.4g} at {curve.x[curve.best]:,.0f})"


def _samples(block: Samples) -> str:
    parts = []
    for number, sample in enumerate(block.samples):
        reward = "" if sample.reward is None else f", reward {sample.reward:.4g}"
        open_it = " open" if number in (0, len(block.samples) - 1) else ""
        text = f"<mark>{escape_html(sample.prompt)}</mark>{escape_html(sample.text)}"
        parts.append(
            f"<details{open_it}><summary>Step {sample.step:,}{reward}</summary>"
            f'<pre class="sample" dir="auto" tabindex="0">{text}</pre></details>'
        )
    return "".join(parts)
