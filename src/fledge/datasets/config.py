"""[data]: which text, how it is read and divided, how windows are cut from it."""

import codecs
from dataclasses import dataclass
from typing import Literal

from fledge.core.config import refuse_odd_counts, setting
from fledge.core.errors import UserError

ASCII = bytes(range(128)).decode("ascii")


@dataclass(frozen=True)
class DataConfig:
    corpus: str = setting("python", "a named corpus, a text file or a folder; prepared when first needed")
    path: str | None = setting(None, "a dataset that 'fledge prepare' made, here or at s3://…; wins over corpus")
    include: str = setting("", "of a folder, glob or Hub repository only what fits: '*.md,*.txt'")
    exclude: str = setting("", "and nothing that fits this")
    field: str = setting("text", "jsonl and parquet: the field that holds the text")
    separator: str = setting("", r"plain text: what stands between documents, as '\n\n'; unset: a file is one")
    errors: Literal["replace", "strict"] = setting("replace", "bytes that are not UTF-8: '�' and counted, or refused")
    min_length: int | None = setting(None, "leave out documents of fewer characters")
    max_length: int | None = setting(None, "leave out documents of more characters")
    charset: str | None = setting(None, "leave out documents that are not written in it: ascii, latin-1, koi8-r, …")
    charset_share: float = setting(1.0, "share of a document's characters that must be in the charset")
    dedup: bool = setting(False, "of documents that are equal to the byte, keep the first")
    split_by: Literal["auto", "document", "tail"] = setting(
        "auto", "whole documents by their hash, or the end of each text; auto: by document where there are many"
    )
    val: float = setting(0.05, "share held out for validation")
    test: float = setting(0.0, "share held out for the very end")
    stride: int | None = setting(None, "distance between the windows of an epoch; unset: the context, each token once")

    def __post_init__(self) -> None:
        if not (0 <= self.val < 1 and 0 <= self.test < 1 and self.val + self.test < 1):
            raise UserError(
                f"data.val = {self.val} and data.test = {self.test} leave nothing to train on",
                "they are shares of the text: 0.05 is one twentieth",
            )
        refuse_odd_counts(self, "data", ["stride", "min_length", "max_length"])
        if self.min_length and self.max_length and self.min_length > self.max_length:
            raise UserError(
                f"data.min_length = {self.min_length} is more than data.max_length = {self.max_length}",
                "no document is both long and short enough: change one of them",
            )
        if not 0 < self.charset_share <= 1:
            raise UserError(f"data.charset_share cannot be {self.charset_share}", "it is a share: 0.9 is nine tenths")
        if self.charset is not None and not is_charset(self.charset):
            raise UserError(
                f"data.charset cannot be {self.charset!r}", "ascii, latin-1, cp1251, shift_jis or gb18030 are some"
            )
        if not is_text(self.separator):
            raise UserError(f"data.separator = {self.separator!r} is not UTF-8", "it is searched for in texts that are")


def is_text(words: str) -> bool:
    """What came from a command line may be bytes that are none."""
    return words == words.encode("utf-8", "replace").decode()


def is_charset(name: str) -> bool:
    """Whether Python knows it, as one in which ASCII is itself."""
    try:
        return codecs.lookup(name)._is_text_encoding and ASCII.encode(name) == ASCII.encode("ascii")
    except (LookupError, ValueError):
        return False
