"""Tables of metrics in a notebook."""

import math

from fledge.notebook.tables import Metrics


def test_cells_are_numbers_as_people_write_them() -> None:
    shown = Metrics({"step": [30.0], "train/tokens": [122880.0], "val/loss": [4.855264], "train/lr": [math.nan]})
    html = shown._repr_html_()
    assert "<td>30</td><td>122,880</td><td>4.8553</td><td></td>" in html
    assert "<td>inf</td>" in Metrics({"step": [0.0], "train/loss": [math.inf]})._repr_html_()
