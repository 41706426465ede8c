"""Values of flags that belong together."""

QUICK = {"units": 128, "epochs": 3, "num_samples": 8, "dropout": 0.1}

ROLLS = {
    "num_layers": 1,
    "units": 256,
    "batch_size": 16,
    "bptt_steps": 32,
    "dropout": 0.2,
    "transpose_prob": 0.8,
    "epochs": 100,
    "learning_rate": 3e-3,
    "max_length": 200,
}
