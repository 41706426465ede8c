"""Sums over the processes of one machine, through pairs of sockets that no other process can open.

TensorFlow's collectives listen on a port of every interface, and whoever connects to it may run any graph. Here the first
process adds up what the others send, in their order, and sends the sums back: nothing listens anywhere.
"""

import socket
from collections.abc import Sequence

import numpy as np


class LostWorkerError(Exception):
    """Another process of the run has ended."""


class Pipes:
    """One end of the pairs: of the first process the sockets to all others, of the others that to the first."""

    def __init__(self, sockets: Sequence[socket.socket], is_first: bool) -> None:
        self.sockets, self.is_first = list(sockets), is_first

    def sum(self, *arrays: np.ndarray) -> list[np.ndarray]:
        """The sums of what all processes call this with; each calls it with arrays of the same shapes and types.

        Raises:
            LostWorkerError: another process has ended, or calls it with something else.
        """
        sizes = [array.nbytes for array in arrays]
        try:
            if not self.is_first:
                self._send(self.sockets[0], arrays)
                return self._receive(self.sockets[0], sizes, arrays)
            sums = [np.array(array) for array in arrays]
            for other in self.sockets:
                for total, part in zip(sums, self._receive(other, sizes, arrays)):
                    total += part
            for other in self.sockets:
                self._send(other, sums)
            return sums
        except OSError as error:
            raise LostWorkerError(str(error)) from error

    def wait(self) -> None:
        """Until the first process has gone."""
        try:
            while self.sockets[0].recv(1):
                pass
        except OSError:
            pass

    def _send(self, other: socket.socket, arrays: Sequence[np.ndarray]) -> None:
        flat = [np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in arrays]
        other.sendall(np.concatenate([np.array([sum(map(len, flat))], np.int64).view(np.uint8), *flat]).data)

    def _receive(self, other: socket.socket, sizes: Sequence[int], arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        if int(self._bytes(other, 8).view(np.int64)[0]) != sum(sizes):
            raise LostWorkerError("another process sums something else")
        data, ends = self._bytes(other, sum(sizes)), np.cumsum(sizes)
        return [data[end - size : end].view(array.dtype).reshape(array.shape) for end, size, array in zip(ends, sizes, arrays)]

    def _bytes(self, other: socket.socket, count: int) -> np.ndarray:
        data = np.empty(count, np.uint8)
        done = 0
        while done < count:
            got = other.recv_into(data.data[done:])
            if not got:
                raise LostWorkerError("a socket was closed")
            done += got
        return data
