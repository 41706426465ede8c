"""Preparing batches on other machines: the servers of a tf.data service, and a data set that comes from them.

    python -m data_pipelines.service dispatcher --port 5050
    python -m data_pipelines.service worker --dispatcher HOST:5050 [--port 5051]      any number
    python -m apps.translation.train --data-service HOST:5050

https://www.tensorflow.org/api_docs/python/tf/data/experimental/service
"""

import argparse
import re
import socket
import sys

import tensorflow as tf

from data_pipelines.sources import DataError

# TensorFlow 2.21 has no setting for the address: a server binds its port on 0.0.0.0.
OPEN = (
    "warning: this {role} listens on every interface of this machine, and whoever can connect to it has the rights of this "
    "process. Let only the machines of the run reach its port: SECURITY.md shows how."
)


def distribute(dataset: tf.data.Dataset, address: str | None) -> tf.data.Dataset:
    """The same elements, computed by the workers of the service at `address` (`HOST:PORT`); None: computed here.

    The service hands out the elements of the source one by one, to whichever worker asks (dynamic sharding). So each
    example is seen once an epoch as long as no worker is lost; what a lost one had in hand comes again in the next epoch. The
    order is not repeatable.

    `dataset` must not shuffle before it buckets: with a shuffle before a `group_by_window` each worker of TensorFlow 2.21's
    service goes through all of the data. Permute the source once, and shuffle batches.

    Raises:
        DataError: not an address, or nothing answers there.
    """
    if address is None:
        return dataset
    check_dispatcher(address)
    service = tf.data.experimental.service
    return dataset.apply(service.distribute(processing_mode=service.ShardingPolicy.DYNAMIC, service=f"grpc://{address}"))


def check_dispatcher(address: str) -> None:
    """Check that a dispatcher answers.

    Raises:
        DataError: not an address, or nothing answers there.
    """
    if not re.fullmatch(r"[\w.\-\[\]:]+:\d+", address):
        raise DataError(f"--data-service {address!r}: not an address. Pass HOST:PORT of a dispatcher.")
    try:  # TensorFlow would retry silently for an hour
        connect(address)
    except (OSError, OverflowError) as error:
        raise DataError(
            f"--data-service {address}: no dispatcher answers there ({error}). Start one: "
            f"python -m data_pipelines.service dispatcher --port {address.rpartition(':')[2]}."
        ) from None


def connect(address: str, seconds: float = 30.0) -> None:
    """Connect to `HOST:PORT`.

    Raises:
        OSError: nothing answers there.
    """
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=seconds).close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("role", choices=["dispatcher", "worker"])
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--dispatcher", help="HOST:PORT; of a worker")
    parser.add_argument("--address", help="HOST:PORT under which a worker is found; default: localhost")
    options = parser.parse_args()
    if (options.role == "worker") == (options.dispatcher is None):
        parser.error("--dispatcher goes with the role worker, which needs it")
    print(OPEN.format(role=options.role), file=sys.stderr, flush=True)
    service = tf.data.experimental.service
    if options.role == "dispatcher":
        server = service.DispatchServer(service.DispatcherConfig(port=options.port))
        print(f"dispatcher at {server.target.removeprefix('grpc://')}", flush=True)
    else:
        config = {"dispatcher_address": options.dispatcher, "worker_address": options.address, "port": options.port}
        server = service.WorkerServer(service.WorkerConfig(**config))
        print(f"worker of {options.dispatcher}", flush=True)
    server.join()


if __name__ == "__main__":
    main()
