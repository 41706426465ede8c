"""One page over the exported models, in the browser.

    python -m apps.demo [--models saved_models] [--host 127.0.0.1] [--port 7860]

Needs `pip install -e '.[demo]'`. No request leaves the machine.
"""

import argparse
import os
import signal
import sys
import tempfile

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before Gradio is imported
os.environ["HF_HUB_OFFLINE"] = "1"


def main() -> None:
    parser = argparse.ArgumentParser("python -m apps.demo", allow_abbrev=False)
    parser.add_argument("--models", default="saved_models", help="folder or URL of exports, <application>/<version>/")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in")
    parser.add_argument("--port", type=int, default=7860)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the uploads are removed
    with tempfile.TemporaryDirectory(prefix="unfold-uploads-", ignore_cleanup_errors=True) as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        serve(arguments)


def serve(arguments: argparse.Namespace) -> None:
    """Open the page, until Ctrl-C or SIGTERM."""
    try:
        from apps.demo.models import Models
        from apps.demo.page import launch_options, make_page
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error}. Install what the page needs by: pip install -e '.[demo]'")
    models = Models(arguments.models)
    models.preload()
    page = make_page(models)
    try:
        _, url, _ = page.launch(
            server_name=arguments.host,
            server_port=arguments.port,
            quiet=True,
            prevent_thread_lock=True,
            **launch_options(arguments.host),
        )
    except OSError:
        sys.exit(
            f"error: --port {arguments.port} can't be opened on {arguments.host}: it is in use, or not allowed. Pass another one."
        )
    print(f"{url}  (Ctrl-C ends it)", flush=True)
    page.block_thread()


if __name__ == "__main__":
    main()
