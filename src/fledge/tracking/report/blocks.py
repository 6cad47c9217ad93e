"""What a page consists of, whether it becomes HTML or Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass

from fledge.tracking.report.data import Chart, SampleText


@dataclass(frozen=True)
class Facts:
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: Sequence[int] = ()  # columns that are aligned to the right
    mono: Sequence[int] = ()  # columns of code


@dataclass(frozen=True)
class Note:
    text: str
    warning: bool = False


@dataclass(frozen=True)
class Commands:
    lines: Sequence[str]


@dataclass(frozen=True)
class Charts:
    charts: Sequence[Chart]


@dataclass(frozen=True)
class Samples:
    samples: Sequence[SampleText]


@dataclass(frozen=True)
class Folded:
    """Shown on demand in HTML, and always in Markdown and on paper."""

    title: str
    block: "Block"


Block = Facts | Table | Note | Commands | Charts | Samples | Folded


@dataclass(frozen=True)
class Section:
    name: str  # an anchor
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    title: str
    subtitle: str
    state: str
    tone: str  # good, warn, bad or plain
    headline: Sequence[tuple[str, str]]  # what, value
    sections: Sequence[Section]
