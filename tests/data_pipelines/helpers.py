"""What the tests of the pipelines share."""

import subprocess
import sys
from contextlib import contextmanager

from tests.apps.helpers import ENVIRONMENT, ROOT


def prepare_tfds(folder, monkeypatch, features, splits):
    """Prepare the data set `tiny` offline and let TFDS find it; `splits` are lists of rows."""
    import tensorflow_datasets as tfds

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """A data set of a few rows."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {name: enumerate(rows) for name, rows in splits.items()}

        def _generate_examples(self):
            raise NotImplementedError

    monkeypatch.setenv("TFDS_DATA_DIR", str(folder))
    Tiny(data_dir=folder).download_and_prepare()
    monkeypatch.setattr(tfds, "builder", lambda name: tfds.builder_from_directory(folder / name / "1.0.0"))


@contextmanager
def service(workers):
    """The address of a dispatcher, and the processes of its workers."""
    processes = []

    def start(*arguments):
        line = [sys.executable, "-m", "data_pipelines.service", *arguments]
        processes.append(
            subprocess.Popen(line, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        )
        return processes[-1].stdout.readline()

    try:
        address = start("dispatcher").split()[-1]
        for _ in range(workers):
            assert start("worker", "--dispatcher", address)
        yield address, processes[1:]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
