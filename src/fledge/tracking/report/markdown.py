"""A report as Markdown: the same sections; curves as a line of text with their first, best and last value."""

from fledge.tracking.report.blocks import Block, Charts, Commands, Facts, Folded, Note, Samples, Section, Table
from fledge.tracking.report.chart import sparkline
from fledge.tracking.report.data import Report
from fledge.tracking.report.escape import escape_markdown, fenced
from fledge.tracking.report.layout import lay_out
from fledge.tracking.report.words import number


def render_markdown(report: Report) -> str:
    page = lay_out(report)
    headline = [f"- {escape_markdown(name)}: **{escape_markdown(value)}**" for name, value in page.headline]
    parts = [f"# {escape_markdown(page.title)}", *map(escape_markdown, (page.subtitle, f"State: {page.state}"))]
    return "\n\n".join([*parts, "\n".join(headline), *map(_section, page.sections)]).strip() + "\n"


def _section(section: Section) -> str:
    return "\n\n".join([f"## {escape_markdown(section.title)}", *map(_block, section.blocks)])


def _block(block: Block) -> str:
    match block:
        case Facts(rows):
            return "\n".join(f"- {escape_markdown(name)}: {escape_markdown(value)}" for name, value in rows)
        case Table():
            return _table(block)
        case Note(text, warning):
            return f"> {escape_markdown(text)}" if warning else escape_markdown(text)
        case Commands(lines):
            return fenced("\n".join(lines))
        case Charts():
            return _charts(block)
        case Samples(samples):
            return "\n\n".join(
                f"### Step {sample.step:,}{'' if sample.reward is None else f', reward {sample.reward:.4g}'}\n\n"
                + fenced(sample.prompt + sample.text)
                for sample in samples
            )
        case Folded(title, inner):
            return f"### {escape_markdown(title)}\n\n{_block(inner)}"


def _table(table: Table) -> str:
    rule = ["---:" if place in table.numeric else "---" for place in range(len(table.columns))]
    lines = [[escape_markdown(name) or " " for name in table.columns], rule]
    lines += [[escape_markdown(text) for text in row] for row in table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _charts(block: Charts) -> str:
    rows = []
    for chart in block.charts:
        for curve in chart.curves:
            best = "" if curve.best is None else f"{number(curve.y[curve.best])} at {curve.x[curve.best]:,.0f}"
            rows.append([curve.metric, sparkline(curve.y), number(curve.y[0]), best, number(curve.y[-1])])
    return _table(Table(["metric", "curve", "first", "best", "last"], rows, [2, 3, 4]))
