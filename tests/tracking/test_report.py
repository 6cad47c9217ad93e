"""The page of a run: what it says, and that nothing in it is more than text."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from fledge.tracking.report import chart as charts
from fledge.tracking.report.data import Chart, ChartCurve, Incident, Report, SampleText, SavedCheckpoint, Session
from fledge.tracking.report.escape import escape_markdown, fenced, visible
from fledge.tracking.report.html import render_html
from fledge.tracking.report.layout import lay_out, short_name
from fledge.tracking.report.markdown import render_markdown

LOSS = ChartCurve("val/loss", "val", "evaluation", [0.0, 50.0, 100.0], [5.0, 2.5, 3.0], [0.1, None, 0.1], 1)
TRAIN = ChartCurve("train/loss", "train", "training", [0.0, 100.0], [5.0, 2.0], None, None)
WHOLE = ChartCurve("val_whole/loss", "val, whole split", "whole", [100.0], [2.9], None, None)
LAYERS = [
    ChartCurve(f"stats/grad_norm/blocks.{n}", f"blocks.{n}", "training", [1.0, 2.0], [1.0, n], None, None)
    for n in range(14)
]
REPORT = Report(
    run="hamlet",
    state="finished",
    method="pretrain",
    started="2026-11-27T06:47:06Z",
    model={"parameters": 12345, "n_layer": 2, "tied": True},
    result={"best_step": 50, "val_loss": 2.5, "bits_per_byte": 1.25, "whole_split": True, "reward": None},
    training={"step": 100, "steps": 100, "saved_step": 100, "tokens": 6400.0, "seconds": 75.0, "peak_memory": 10**8},
    machine={"processor": "AMD EPYC", "cores": 2, "device": "cpu", "dtype": "float32", "processes": 1},
    data={
        "text": "/home/me/notes",
        "tokenizer": {"kind": "bpe"},
        "splits": {"train": {"tokens": 9, "documents": 1, "bytes": 20}},
    },
    sessions=[Session(1.8e9, 0, 60, "interrupted", 40.0, None), Session(1.8e9 + 99, 60, 100, "finished", 35.0, None)],
    plan={"seconds": {"predicted": 70.0, "measured": 75.0, "difference_percent": -6.7}},
    charts=[
        Chart("loss", "loss (nats per token)", "step", [TRAIN, LOSS, WHOLE], 2.0, 4.0, False, [50.0]),
        Chart("stats_grad_norm", "gradient norm, by layer", "step", LAYERS, 0.0, 13.0, True, []),
    ],
    samples=[SampleText(0, "To be", " xx", None), SampleText(100, "To be", ", or not", 0.5)],
    evaluations=[{"kind": "split", "step": 50, "split": "val", "loss": 2.48, "accuracy": 0.5, "tokens": 640}],
    alignment=None,
    preset="demo",
    changes=[],
    configuration={"train": {"steps": 100, "compile": False}},
    incidents=[Incident(50, "rollback", "after step 53: loss spike")],
    checkpoints=[SavedCheckpoint(50, 2.5, True, False, "ab" * 32), SavedCheckpoint(1, None, False, True, None)],
    environment={"torch": "2.13.0"},
    hashes={"dataset": "cd" * 32},
    reproduce=["fledge train runs/hamlet/config.toml --run hamlet-again"],
    problems=[],
)
EMPTY = replace(
    REPORT,
    **{
        name: {}
        for name in ("model", "result", "training", "machine", "data", "plan", "configuration", "environment", "hashes")
    },
    **{name: [] for name in ("sessions", "charts", "samples", "evaluations", "incidents", "checkpoints", "reproduce")},
    state="unknown",
    started="",
    problems=["the settings: 'config.toml' is damaged"],
)
HOSTILE = [
    "<script>alert(1)</script>",
    "</pre></style><img src=x onerror=alert(1)>",
    "\x1b[31mred\x1b[0m \x07",
    "abc \u202egnp.exe\u202c",
    "שלום עולם · مرحبا",
    "👩‍👩‍👧‍👦 🏳️‍🌈",
    "```\n# heading\n````",
    "| a | b |\n---|---",
    "javascript:alert(1) [x](javascript:alert(1)) ![x](http://evil/x.png)",
    "&lt;b&gt; \" ' onmouseover=alert(1)",
]


class Tags(HTMLParser):
    """The tags and attributes of a page, and that every tag is closed."""

    VOID = ("meta", "line", "circle", "rect", "path")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def hostile(text: str) -> Report:
    """The text in every place that comes from files."""
    curve = replace(LOSS, label=text, metric=text)
    return replace(
        REPORT,
        run=text,
        data={"text": text, "folder": text, "tokenizer": {"kind": text}},
        machine={"processor": text},
        samples=[SampleText(0, text, text, None)],
        charts=[Chart("x", text, text, [curve], 2.0, 5.0, False, [])],
        configuration={text: {text: text}},
        incidents=[Incident(0, text, text)],
        evaluations=[{"kind": "tasks", "step": 1, "tasks": [{"task": text, "metric": text, "score": 0.5}]}],
        alignment={"method": text, "init": text, "data": [text], "rewards": {text: 1.0}, "settings": {}, "metrics": {}},
        environment={"commit": text},
        hashes={text: text},
        reproduce=[text],
        problems=[text],
    )


def test_page_says_what_was_trained_on_what_and_how_well() -> None:
    for page in ("".join(Tags(render_html(REPORT)).text), render_markdown(REPORT).replace("\\", "")):
        for text in ("hamlet", "12,345 parameters, trained on notes for 100 steps in 1 min 15 s", "2.5000", "1.2500"):
            assert text in page
        for text in ("To be, or not", "reward 0.5", "AMD EPYC, 2 cores", "2.4800", "ab" * 32, "cd" * 32, "-7 %"):
            assert text in page
        for text in (
            "interrupted",
            "after step 53: loss spike",
            "train.steps",
            "hamlet-again",
            "1 checkpoint of weights",
        ):
            assert text in page


def test_page_needs_nothing_from_outside_and_runs_nothing() -> None:
    page = render_html(REPORT)
    found = Tags(page)
    assert not {"script", "link", "img", "iframe", "object", "base", "form"} & set(found.tags)
    assert not [name for name, _ in found.attributes if name.startswith("on") or name in ("style", "src")]
    assert all(value.startswith("#") for name, value in found.attributes if name == "href")
    assert "url(" not in page.replace("url(#clip-", "")
    assert "@import" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "default-src 'none'" in page


def test_page_is_accessible() -> None:
    page = render_html(REPORT)
    names = [value for name, value in Tags(page).attributes if name == "id"]
    assert len(names) == len(set(names))
    assert page.count("<h1>") == 1
    assert all(text in page for text in ('lang="en"', 'scope="col"', "width=device-width"))
    for label in re.findall('<svg viewBox="0 0 440 250" role="img" aria-label="(.*?)"', page):
        assert " by step. " in label
    assert "best 2.5 at 50" in page


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text: str) -> None:
    page = render_html(hostile(text))
    found = Tags(page)
    assert set(found.tags) <= set(Tags(render_html(REPORT)).tags)
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert visible(text) in "".join(found.text)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", page + render_markdown(hostile(text)))


def test_control_characters_are_shown_and_emoji_kept() -> None:
    assert visible("\x1b[31m\x07\r\n\t") == "␛[31m␇␍\n\t"
    assert visible("a\u202eb\ud800") == "a�b�"
    assert visible("👩‍👩‍👧 🏳️‍🌈 שלום") == "👩‍👩‍👧 🏳️‍🌈 שלום"


def test_markdown_is_escaped_in_lines_and_fenced_in_blocks() -> None:
    assert escape_markdown("a|b <c>\n*d* `e` [f](g) #h") == r"a\|b \<c\> \*d\* \`e\` \[f\](g) \#h"
    assert fenced("```\nx\n````") == "`````\n```\nx\n````\n`````"


def test_what_is_missing_is_said_first_and_leaves_no_empty_section() -> None:
    page = lay_out(EMPTY)
    assert [section.name for section in page.sections][:1] == ["problems"]
    assert all(section.blocks for section in page.sections)
    assert "is damaged" in render_html(EMPTY)
    assert "No metrics yet" in render_html(EMPTY)
    assert "is damaged" in render_markdown(EMPTY)


@pytest.mark.parametrize("values", [[3.0, 3.0], [0.0, 0.0], [1e-9, 2e-9], [1e12, 2e12], [-5.0, 5.0]])
def test_chart_of_any_values_has_round_ticks(values: list[float]) -> None:
    curve = ChartCurve("x", "", "training", [1.0, 2.0], values, None, None)
    picture = charts.svg(Chart("x", "x", "step", [curve], min(values), max(values), False, []), 1)
    assert 2 <= picture.count('class="grid"') <= 10
    assert not re.search("nan|inf", picture)


def test_curve_of_one_point_is_a_dot() -> None:
    curve = ChartCurve("x", "", "training", [0.0], [1.0], None, None)
    assert "<circle" in charts.svg(Chart("x", "x", "step", [curve], 1.0, 1.0, False, []), 1)


def test_sparkline_has_the_shape_of_the_curve() -> None:
    assert charts.sparkline([0.0, 1.0, 2.0, 7.0]) == "▁▂▃█"
    assert charts.sparkline([1.0, 1.0]) == "▁▁"
    assert charts.sparkline([]) == ""
    assert len(charts.sparkline([float(n) for n in range(1000)])) == 24


def test_path_of_this_machine_is_shortened() -> None:
    assert short_name("/home/me/notes") == "notes"
    assert short_name("shakespeare, /a/b.txt, my-notes/") == "shakespeare, b.txt, my-notes/"


def test_checkpoints_of_a_rewarded_run_show_the_reward() -> None:
    """Its negative stands for the loss in the checkpoint."""
    saved = [SavedCheckpoint(4, -0.75, True, False, None), SavedCheckpoint(3, -0.0, False, False, None)]
    page = render_markdown(replace(REPORT, result={**REPORT.result, "reward": 0.75}, checkpoints=saved))
    assert "| step | reward | which |" in page
    assert "| 4 | 0.7500 | best |" in page
    assert "| 3 | 0.0000 |" in page
    assert "| step | validation loss | which |" in render_markdown(REPORT)
