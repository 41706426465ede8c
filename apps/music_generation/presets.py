"""Values of flags that belong together."""

QUICK = {"units": 128, "epochs": 3, "samples": 8, "dropout": 0.1}

ROLLS = {
    "depth": 1,
    "units": 256,
    "rows": 16,
    "bptt_steps": 32,
    "dropout": 0.2,
    "transposed": 0.8,
    "epochs": 100,
    "learning_rate": 3e-3,
    "max_length_tokens": 200,
}
