"""The logit lens in a notebook: a row for each layer, a column for each token, in a cell the most likely next token."""

import html
from dataclasses import dataclass

from fledge.insight.logit_lens import LogitLens, logit_lens
from fledge.insight.residual_stream import encode_text
from fledge.runs.run_folder import LoadedCheckpoint
from fledge.tokenizers.token_labels import token_labels, visible

SHOWN_TOKENS = 100


@dataclass(frozen=True, eq=False)
class ShownLogitLens(LogitLens):
    tokens: list[str]  # of the text
    labels: dict[int, str]  # of the predicted ids

    def top_tokens(self, layer: int, position: int) -> list[tuple[str, float]]:
        """The most likely next tokens, with their probabilities."""
        ids, probabilities = self.top_ids[layer, position].tolist(), self.top_probabilities[layer, position].tolist()
        return [(self.labels[token], probability) for token, probability in zip(ids, probabilities, strict=True)]

    def _repr_html_(self) -> str:
        layers, shown = self.top_ids.shape[0], min(len(self.tokens), SHOWN_TOKENS)
        head = "".join(f"<th>{_show(token)}</th>" for token in self.tokens[:shown])
        rows = "".join(
            f"<tr><th>layer&nbsp;{layer}</th>{''.join(self._cell(layer, position) for position in range(shown))}</tr>"
            for layer in range(layers)
        )
        after = "" if shown == len(self.tokens) else f" (the first {shown} of {len(self.tokens)} tokens)"
        words = f"the most likely token after each of these, by layer; the last layer is the model's answer{after}"
        table = f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table>"
        return f'<p>{words}</p><div style="overflow-x:auto">{table}</div>'

    def _cell(self, layer: int, position: int) -> str:
        best = self.top_tokens(layer, position)
        title = "&#10;".join(f"{_show(token)} {probability:.3f}" for token, probability in best)
        return f'<td style="background:rgba(0,158,115,{best[0][1]:.2f})" title="{title}">{_show(best[0][0])}</td>'


def read_logit_lens(loaded: LoadedCheckpoint, text: str, top: int) -> ShownLogitLens:
    """The logit lens of a loaded model on a text."""
    ids = encode_text(loaded.tokenizer, text, loaded.model.config.context)
    lens, tokenizer = logit_lens(loaded.model, ids, top), loaded.tokenizer
    predicted = lens.top_ids.unique().tolist()
    labels = dict(zip(predicted, token_labels(tokenizer, predicted), strict=True))
    return ShownLogitLens(**vars(lens), tokens=token_labels(tokenizer, ids.tolist()), labels=labels)


def _show(token: str) -> str:
    return html.escape(visible(token))
