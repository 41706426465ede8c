"""Applications: each trains with one script, measures, predicts and exports."""

import os
import re
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# What TensorFlow prints to the error stream when it is imported, before it can be told not to.
_STARTUP = re.compile(rb"^(WARNING: All log messages before absl|[IWE]\d{4} .*\.cc:\d+\]|To enable the following instructions)")


def _import_quietly() -> None:
    with tempfile.TemporaryFile() as caught:
        stream = os.dup(2)
        os.dup2(caught.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        finally:
            os.dup2(stream, 2)
            os.close(stream)
            caught.seek(0)
            os.write(2, b"".join(line for line in caught if not _STARTUP.match(line)))


_import_quietly()
