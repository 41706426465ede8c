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
from layers.multi_head_attention import MultiHeadAttention
from layers.positional import PositionalEncoding
from layers.recurrent_layers import GRU, LSTM, GatedRNN, SimpleRNN
from layers.rnn import RNN

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "BahdanauAttention",
    "Bidirectional",
    "GRUCell",
    "GatedRNN",
    "GatedRNNCell",
    "LSTMCell",
    "MultiHeadAttention",
    "PositionalEncoding",
    "RecurrentCell",
    "ScaledDotProductAttention",
    "SimpleRNN",
    "SimpleRNNCell",
    "additive_attention",
    "check_gradient",
    "scaled_dot_product_attention",
]
