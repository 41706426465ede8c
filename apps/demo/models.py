"""The exported models of the page: loaded when they are needed, again when there is a newer version."""

import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from apps.applications import APPLICATIONS
from apps.common.export.model_card import card_facts, card_summary
from apps.common.export.saved_model import load_export, newest_version, run_warm_up
from data_pipelines.remote import is_remote
from data_pipelines.sources import DataError

SECONDS = 60.0  # after which a store is asked again for newer versions


class About(NamedTuple):
    """What the card of a model says."""

    text: str = ""  # purpose and training data; version, date, size, languages, files
    kind: str = ""  # the application, or piano_rolls
    embedded: bool = True  # trained on embedded data, or there is no model yet
    languages: tuple[str, ...] = ()  # of a translator: source and target


class Models:
    """What lies in a folder of exports, `<application>/<version>/`, or at such a URL."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = folder
        self._found: dict[str, tuple[float, Path | None]] = {}
        self._looking = threading.Lock()
        self._loaded: dict[str, tuple[Path, Any]] = {}
        self._lock = threading.Lock()

    def preload(self) -> None:
        """Load what is there in the background, and let it answer a first request, which takes longer."""

        def load() -> None:
            for application in APPLICATIONS:
                if folder := self.newest(application):
                    run_warm_up(folder, self.get(application))

        threading.Thread(target=load, daemon=True).start()

    def newest(self, application: str) -> Path | None:
        """The folder of the newest version."""
        if not is_remote(self.folder):
            return newest_version(Path(self.folder) / application)
        with self._looking:
            if application not in self._found or time.monotonic() - self._found[application][0] > SECONDS:
                self._found[application] = time.monotonic(), newest_version(f"{str(self.folder).rstrip('/')}/{application}")
            return self._found[application][1]

    def how_to_train(self, application: str) -> str:
        """How to make the model, or "" if it is there."""
        if self.newest(application):
            return ""
        minutes = APPLICATIONS[application].minutes
        return (
            f"There is no model in `{self.folder}/{application}` yet. Make one, in about {minutes} minute{'s' * (minutes > 1)}, "
            f"by `python -m apps.{application}.train --quick`, and reload this page."
        )

    def about(self, application: str) -> About:
        """What the newest version is."""
        folder = self.newest(application)
        if folder is None or not (folder / "model_card.md").exists():
            return About()
        card = (folder / "model_card.md").read_text()
        facts, kind = card_facts(card), card.splitlines()[0].removeprefix("# ")
        file = folder / "languages.txt"
        languages = tuple(file.read_text().split()) if file.exists() else ()
        source = facts.get("data source", "").partition(";")[0]
        shown = {
            "model": kind,
            "version": folder.name,
            "languages": " to ".join(languages),
            "data": source,
            "exported": facts.get("exported", ""),
            "size": facts.get("size", ""),
        }
        line = " · ".join(f"{name} {value}" for name, value in shown.items() if value)
        return About(f"{card_summary(card)}\n\n<small>{line}</small>", kind, source in ("", "`embedded`"), languages)

    def is_loaded(self, application: str) -> bool:
        """Whether the newest version can answer at once."""
        return self._loaded.get(application, (None,))[0] == self.newest(application)

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
