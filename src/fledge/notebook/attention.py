"""Attention weights in a notebook: all heads as small pictures, and one head as a table.

attention = run.attention("the cat sat on the mat")
attention                               # a grid: a row a layer, a column a head
attention.weights[2, 5]                 # a tensor [T, T]
attention.head(2, 5)                    # one head, with its tokens
"""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fledge.core.errors import UserError
from fledge.insight.attention import attention_weights, thumbnails
from fledge.insight.residual_stream import encode_text
from fledge.runs.run_folder import LoadedCheckpoint
from fledge.tokenizers.token_labels import token_labels, visible

TILE, GAP = 64, 4  # pixels of a head's picture, and between two
TABLE_TOKENS = 40  # one head of a longer text is a picture, without words
HEAD_PIXELS = 480


@dataclass(frozen=True, eq=False)
class Attention:
    """Of every head on one text."""

    tokens: list[str]
    weights: Tensor  # [layers, heads, T, T]: row i is how much token i attends to each token

    def head(self, layer: int, head: int) -> "HeadAttention":
        layers, heads = self.weights.shape[:2]
        if not (0 <= layer < layers and 0 <= head < heads):
            raise UserError(
                f"there is no head {head} in layer {layer}", f"layers are 0 to {layers - 1}, heads 0 to {heads - 1}"
            )
        return HeadAttention(self.tokens, self.weights[layer, head], layer, head)

    def _repr_html_(self) -> str:
        layers, heads = self.weights.shape[:2]
        rows = torch.stack([thumbnails(layer, TILE) for layer in self.weights])  # [L, H, S, S]
        scale = -(-TILE // rows.shape[-1])  # rounded up
        side = scale * rows.shape[-1]
        canvas = np.zeros((layers * (side + GAP) - GAP, heads * (side + GAP) - GAP), dtype=np.float32)
        for layer, head in np.ndindex(layers, heads):
            y, x = layer * (side + GAP), head * (side + GAP)
            canvas[y : y + side, x : x + side] = np.kron(rows[layer, head], np.ones((scale, scale)))
        words = (
            f"{layers} layers (rows) of {heads} heads (columns) on {len(self.tokens)} tokens. In a square, a row is"
            " what one token attends to; <code>.head(layer, head)</code> shows a head in full."
        )
        return f"<p>{words}</p>{_picture(canvas, 'attention of all heads', canvas.shape[1])}"


@dataclass(frozen=True, eq=False)
class HeadAttention:
    """Of one head: row i of `weights` is how much token i attends to each token."""

    tokens: list[str]
    weights: Tensor  # [T, T]
    layer: int
    number: int

    def _repr_html_(self) -> str:
        title = f"<p>layer {self.layer}, head {self.number}: each row is a token, and what it attends to</p>"
        if len(self.tokens) > TABLE_TOKENS:
            return title + _picture(self.weights.numpy(), "attention of one head", HEAD_PIXELS)
        names = [html.escape(visible(token)) for token in self.tokens]
        head = "".join(f'<th style="writing-mode:vertical-rl">{name}</th>' for name in names)
        rows = "".join(_row(name, row, names) for row, name in zip(self.weights.tolist(), names, strict=True))
        return f"{title}<table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table>"


def read_attention(loaded: LoadedCheckpoint, text: str) -> Attention:
    """The attention of a loaded model on a text."""
    ids = encode_text(loaded.tokenizer, text, loaded.model.config.context)
    return Attention(token_labels(loaded.tokenizer, ids.tolist()), attention_weights(loaded.model, ids))


def _row(query: str, weights: Sequence[float], keys: Sequence[str]) -> str:
    cells = "".join(
        f'<td style="background:rgba(0,114,178,{weight:.3f})" title="{query} → {key}: {weight:.3f}">&nbsp;</td>'
        for weight, key in zip(weights, keys, strict=True)
    )
    return f"<tr><th>{query}</th>{cells}</tr>"


def _picture(weights: NDArray[np.float32], words: str, width: int) -> str:
    from matplotlib.image import imsave  # takes a second to import

    file = io.BytesIO()
    imsave(file, np.sqrt(weights), cmap="Blues", vmin=0, vmax=1, format="png")  # the root: small weights are visible
    data = base64.b64encode(file.getvalue()).decode()
    style = f"width:{width}px;max-width:100%;image-rendering:pixelated"
    return f'<img src="data:image/png;base64,{data}" alt="{words}" style="{style}">'
