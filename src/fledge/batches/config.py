"""[data]: which text, how it is divided, how windows are cut from it."""

from dataclasses import dataclass
from typing import Literal

from fledge.base.errors import UserError
from fledge.base.settings import refuse_odd_counts, setting


@dataclass(frozen=True)
class DataConfig:
    corpus: str = setting("python", "a named corpus, a text file or a folder; prepared when first needed")
    path: str | None = setting(None, "a dataset that 'fledge prepare' made; wins over corpus")
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
        refuse_odd_counts(self, "data", ["stride"])
