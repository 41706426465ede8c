"""One set of exports for all files of this folder, also where several processes test."""

import fcntl

import pytest

from tests.serving.small import WRITERS, make_export


@pytest.fixture(scope="session")
def exports(tmp_path_factory, worker_id):
    """Application -> folder of its exported version; beside the exports lie `runs` and `models.config`."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "serving"
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            for application in WRITERS:
                make_export(application, folder)
            (folder / "done").touch()
    return {application: folder / "saved_models" / application / "1" for application in WRITERS}
