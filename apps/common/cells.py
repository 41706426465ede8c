"""The recurrent layers by the names that `--cell` has for them."""

import layers

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
