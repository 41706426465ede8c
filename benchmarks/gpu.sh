#!/usr/bin/env bash
# The benchmark on a machine with a GPU, Python, JAX with CUDA and PyTorch; TensorFlow isn't needed.
#   benchmarks/gpu.sh [--wheels FOLDER] [flags of benchmarks.gpu]
# Without a network, FOLDER holds the wheels of keras, namex, optree and typing_extensions.
set -euo pipefail
cd "$(dirname "$0")/.."
from=()
if [ "${1:-}" = --wheels ]; then
    from=(--no-index --find-links "$2")
    shift 2
fi
python3 -c "import keras" 2> /dev/null || python3 -m pip install --quiet "${from[@]}" "keras>=3.15,<3.16"
KERAS_BACKEND=jax python3 -m benchmarks.gpu "$@"
