"""What was read of a source, what was skipped, and what was guessed: for the screen and for dataset.json."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from fledge.core.formatting import counted
from fledge.text.encodings import UTF8, encoding_name
from fledge.text.inputs import Input
from fledge.text.kinds import TOOLS, file_kind, list_kinds

NAMED = 3  # files in a warning


@dataclass(frozen=True)
class FileSummary:
    """Files by kind, those of other encodings than UTF-8 by encoding, and the names of those with invalid bytes.

    invalid: relative to the source.
    """

    read: dict[str, int]
    skipped: dict[str, int]
    encodings: dict[str, int]
    invalid: list[str]

    def line(self, size: str = "") -> str:
        """read 214 files (180 md, 34 txt); skipped 12: 7 pdf, 4 png, 1 empty; 3 files read as Windows-1252"""
        words = [f"read {counted(sum(self.read.values()), 'file')} ({list_kinds(self.read)}){size}"]
        if self.skipped:
            words.append(f"skipped {sum(self.skipped.values()):,}: {list_kinds(self.skipped)}")
        words += [f"{counted(count, 'file')} read as {name}" for name, count in self.encodings.items()]
        return "; ".join(words)

    def advice(self) -> list[str]:
        """What can be done for files that were skipped or are damaged."""
        lines = [f"hint: text of {kind} files: {TOOLS[kind]}" for kind in self.skipped if kind in TOOLS]
        if self.invalid:
            more = f" and {len(self.invalid) - NAMED} more" if len(self.invalid) > NAMED else ""
            names = ", ".join(f"'{name}'" for name in self.invalid[:NAMED])
            lines += [
                f"warning: invalid bytes, read as '�', in {names}{more}",
                "hint: if you know the encoding, name it, for example: --data.encoding cp1251",
            ]
        return lines


def summarize(inputs: Iterable[Input], skipped: Iterable[str], invalid: Iterable[str]) -> FileSummary:
    """`skipped`: the kind of each file that was not read. `invalid`: names of files with invalid bytes."""
    files = list(dict.fromkeys(inputs))
    read = Counter(file_kind(each.name.partition("?")[0], each.format) for each in files if each.size != 0)
    empty = ["empty" for each in files if each.size == 0]
    encodings = Counter(encoding_name(each.encoding) for each in files if each.encoding != UTF8)
    return FileSummary(dict(read), dict(Counter([*skipped, *empty])), dict(encodings), sorted(invalid))
