"""Values of flags that belong together."""

QUICK = {
    "image_size": 64,
    "units": 128,
    "embedding_size": 64,
    "memory_size": 128,
    "min_count": 1,
    "epochs": 12,
    "batch_size": 32,
    "learning_rate": 3e-3,
    "dropout": 0.0,
    "word_dropout": 0.0,
    "label_smoothing": 0.0,
    "average": 0.98,
    "attention_penalty": 0.0,
    "beam_width": 3,
}
