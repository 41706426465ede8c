"""The recurrent layers by the names that `--cell` has for them."""

from typing import Any

import layers
from data_pipelines.sources import DataError

CELLS = {
    "simple_rnn": layers.SimpleRNN,
    "gated_rnn": layers.GatedRNN,
    "gru": layers.GRU,
    "lstm": layers.LSTM,
    "sru": layers.SRU,
    "qrnn": layers.QRNN,
    "min_gru": layers.MinGRU,
    "ssru": layers.SSRU,
}
WITHOUT_PRODUCT = ("qrnn", "min_gru", "ssru")


def check_dropout(config: Any) -> None:
    """Whether the cell has what the flags drop.

    Raises:
        DataError: a part of the recurrent product, and the cell has none.
    """
    for name in ("recurrent_dropout", "weight_dropout"):
        if getattr(config, name, 0) and config.cell in WITHOUT_PRODUCT:
            flag = f"--{name.replace('_', '-')}"
            raise DataError(
                f"{flag} {getattr(config, name)}: --cell {config.cell} has no recurrent product. Pass another cell, or {flag} 0."
            )
