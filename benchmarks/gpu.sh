#!/usr/bin/env bash
# The benchmark on a machine with a GPU, Python, JAX with CUDA and PyTorch; TensorFlow isn't needed.
#   benchmarks/gpu.sh [WHEELS]     WHEELS: a folder with the wheels of keras, namex, optree and typing_extensions, if there is no network
set -euo pipefail
cd "$(dirname "$0")/.."
if ! python3 -c "import keras" 2> /dev/null; then
    python3 -m pip install --quiet ${1:+--no-index --find-links "$1"} "keras>=3.15,<3.16"
fi
KERAS_BACKEND=jax python3 -m benchmarks.gpu
