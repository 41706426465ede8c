"""Values of flags that belong together."""

QUICK = {
    "units": 128,
    "embedding_size": 64,
    "memory_size": 128,
    "epochs": 2,
    "learning_rate": 4e-3,
    "min_count": 1,
    "ema_momentum": 0.98,
    "buckets": 2,
    "beam_size": 3,
}

# for the drawn scenes
SCENES = {
    **QUICK,
    "backbone": "small-cnn",
    "image_size": 64,
    "epochs": 12,
    "batch_size": 32,
    "dropout": 0.0,
    "label_smoothing": 0.0,
    "attention_penalty": 0.0,
    "length_penalty": 1.0,
    "no_repeat_ngram_size": 0,  # "a large red" may well be said twice
}
