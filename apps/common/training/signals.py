"""Ctrl-C and SIGTERM, handled between two training steps."""

import signal
import threading
from typing import Any


class Stopped(KeyboardInterrupt):
    """Somebody ended the run, by Ctrl-C or SIGTERM."""

    def __init__(self, number: int, step: int, what: str, resume_command: str) -> None:
        super().__init__(f"stopped at step {step:,}, which {what}; continue by:\n{resume_command}")
        self.exit_code = 128 + number


class StopSignals:
    """Notes the first SIGINT or SIGTERM in `number` instead of ending the process; a second one ends it as ever."""

    def __init__(self) -> None:
        self.number = 0
        self._handlers: dict[int, Any] = {}

    def listen(self) -> None:
        if threading.current_thread() is threading.main_thread():  # only there signals arrive
            self._handlers = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}

    def _on_signal(self, number: int, frame: Any) -> None:
        self.number = number
        self.restore()

    def restore(self) -> None:
        """Give the signals back to whoever had them before."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}
