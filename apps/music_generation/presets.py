"""Values of flags that belong together."""

QUICK = {"units": 192, "epochs": 10, "samples": 20, "dropout": 0.2}

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
