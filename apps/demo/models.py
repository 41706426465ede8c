"""The exported models of the page: loaded when they are needed, again when there is a newer version."""

import threading
from pathlib import Path
from typing import Any

from apps.applications import APPLICATIONS
from apps.common.export.model_card import card_summary
from apps.common.export.saved_model import load_export, newest_version
from data_pipelines.sources import DataError


class Models:
    """What lies in a folder of exports, `<application>/<version>/`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._loaded: dict[str, tuple[Path, Any]] = {}
        self._lock = threading.Lock()

    def preload(self) -> None:
        """Load what is there in the background."""

        def load() -> None:
            for application in APPLICATIONS:
                if self.newest(application):
                    self.get(application)

        threading.Thread(target=load, daemon=True).start()

    def newest(self, application: str) -> Path | None:
        """The folder of the newest version."""
        return newest_version(self.folder / application)

    def how_to_train(self, application: str) -> str:
        """How to make the model, or "" if it is there."""
        if self.newest(application):
            return ""
        minutes = APPLICATIONS[application].minutes
        return (
            f"There is no model in `{self.folder / application}` yet. Make one, in about {minutes} minute{'s' * (minutes > 1)}, "
            f"by `python -m apps.{application}.train --quick`, and reload this page."
        )

    def about(self, application: str) -> str:
        """Purpose and training data from its card, or ""."""
        card = (self.newest(application) or Path()) / "model_card.md"
        return card_summary(card.read_text()) if card.exists() else ""

    def get(self, application: str) -> Any:
        """The newest version.

        Raises:
            DataError: there is none.
        """
        folder = self.newest(application)
        if folder is None:
            raise DataError(self.how_to_train(application))
        with self._lock:  # users who come at once wait for one load
            if self._loaded.get(application, (None,))[0] != folder:
                self._loaded[application] = (folder, load_export(folder, application))
            return self._loaded[application][1]
