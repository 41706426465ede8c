"""Recurrent and attention layers for Keras 3 that are fast, support arbitrary masks and read like their equations."""

import keras

if keras.backend.backend() not in ("tensorflow", "jax"):
    raise RuntimeError(
        f"layers: the Keras backend is {keras.backend.backend()!r}; expected 'tensorflow' or 'jax'. "
        "Set KERAS_BACKEND=tensorflow before Keras is imported."
    )

from layers.attention import (
    BahdanauAttention,
    ScaledDotProductAttention,
    additive_attention,
    scaled_dot_product_attention,
)
from layers.base_cell import RecurrentCell
from layers.bidirectional import Bidirectional
from layers.cells import GatedRNNCell, GRUCell, LSTMCell, SimpleRNNCell
from layers.check import check_gradient
from layers.compiled import portable
from layers.linear_cells import LinearCell, MinGRUCell, SSRUCell
from layers.linear_recurrences import linear_recurrence
from layers.multi_head_attention import MultiHeadAttention
from layers.positional import PositionalEncoding
from layers.qrnn import QRNNCell
from layers.recurrent_layers import GRU, LSTM, QRNN, SRU, SSRU, GatedRNN, MinGRU, SimpleRNN
from layers.rnn import RNN
from layers.sru import SRUCell

__all__ = [
    "GRU",
    "LSTM",
    "QRNN",
    "RNN",
    "SRU",
    "SSRU",
    "BahdanauAttention",
    "Bidirectional",
    "GRUCell",
    "GatedRNN",
    "GatedRNNCell",
    "LSTMCell",
    "LinearCell",
    "MinGRU",
    "MinGRUCell",
    "MultiHeadAttention",
    "PositionalEncoding",
    "QRNNCell",
    "RecurrentCell",
    "SRUCell",
    "SSRUCell",
    "ScaledDotProductAttention",
    "SimpleRNN",
    "SimpleRNNCell",
    "additive_attention",
    "check_gradient",
    "linear_recurrence",
    "portable",
    "scaled_dot_product_attention",
]
