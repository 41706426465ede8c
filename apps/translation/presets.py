"""Values of flags that belong together."""

QUICK = {
    "units": 128,
    "embedding_size": 128,
    "vocabulary_size": 600,
    "epochs": 10,
    "learning_rate": 4e-3,
    "dropout": 0.1,
    "label_smoothing": 0.0,
    "ema_momentum": 0.98,
    "max_tokens": 1_024,
    "buckets": 3,
    "beam_size": 3,
}

# Sutskever et al. 2014, https://arxiv.org/abs/1409.3215: 160,000 source and 80,000 target words, beam 12 there
SUTSKEVER = {
    "cell": "lstm",
    "units": 1_000,
    "embedding_size": 1_000,
    "encoder": "forward",
    "encoder_layers": 4,
    "decoder_layers": 4,
    "attention": "none",
    "reverse_source": True,
    "tokenizer": "words",
    "vocabulary": "separate",
    "vocabulary_size": 80_000,
    "dropout": 0.0,
    "label_smoothing": 0.0,
    "optimizer": "sgd",
    "learning_rate": 0.7,
    "clip_norm": 5.0,
    "ema_momentum": 0.0,
    "epochs": 8,
    "beam_size": 12,
    "length_penalty": 0.0,
}
