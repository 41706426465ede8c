"""Sequence models for Keras 3: recurrent and attention layers that are fast, obey masks and read like their equations."""

from layers.attention import ScaledDotProductAttention, scaled_dot_product_attention
from layers.bidirectional import Bidirectional
from layers.cell import RecurrentCell
from layers.cells import GatedRNNCell, GRUCell, LSTMCell, SimpleRNNCell
from layers.recurrent import GRU, LSTM, RNN, GatedRNN, SimpleRNN

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Bidirectional",
    "GRUCell",
    "GatedRNN",
    "GatedRNNCell",
    "LSTMCell",
    "RecurrentCell",
    "ScaledDotProductAttention",
    "SimpleRNN",
    "SimpleRNNCell",
    "scaled_dot_product_attention",
]
