"""All uploads to the page together stay within a limit: over HTTP, without a browser."""

import contextlib
import http.client
import os
import signal
import time
import urllib.request

import httpx
import pytest

from apps.common.training.cluster import loopback_ports
from tests import forked
from tests.apps.helpers import ROOT

LIMIT = 100_000
SERVER = f"""
import tempfile
tempfile.tempdir = None  # asked for before the fork
import apps.demo.uploads
assert apps.demo.uploads.LARGEST_TOTAL == 200 * 2**20
apps.demo.uploads.LARGEST_TOTAL = {LIMIT}
from apps.demo.__main__ import main
main()
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The port of a page with a small limit, and the folder that holds its uploads; they end together."""
    (port,), folder = loopback_ports(1), tmp_path_factory.mktemp("uploads")
    line = ["--models", str(folder / "none"), "--port", str(port)]
    process = forked.Forked("-c", line, cwd=ROOT, environment={"TMPDIR": str(folder)}, code=SERVER)
    try:
        wait_for(lambda: process.poll() is not None or answers(port))
        yield port, folder
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        assert not names(folder), sorted(folder.rglob("*"))
    finally:
        if process.poll() is None:
            process.kill()


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def answers(port):
    with contextlib.suppress(OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=5).close()
        return True


def post(port, number, size=30_000):
    files = {"files": (f"{number}.png", bytes([number]) * size)}
    return httpx.post(f"http://127.0.0.1:{port}/gradio_api/upload", files=files, timeout=30)


def begin(port, length, sent=b""):
    """An upload that has sent so much of so many bytes."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.putrequest("POST", "/gradio_api/upload")
    connection.putheader("Content-Type", "multipart/form-data; boundary=b")
    connection.putheader("Content-Length", str(length))
    connection.endheaders(b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + sent)
    return connection


def names(folder):
    return {path.name for path in folder.rglob("*") if path.is_file()}


def test_the_oldest_uploads_give_way(page):
    port, folder = page
    assert [post(port, number).status_code for number in range(10)] == [200] * 10
    assert names(folder) == {"8.png", "9.png"}


def test_what_can_not_fit_is_refused_in_a_readable_way(page):
    port, folder = page
    large = post(port, 1, LIMIT)
    assert (large.status_code, large.headers["content-type"]) == (413, "application/json")
    assert "of all visitors together are limited to" in large.json()["error"]
    chunked = httpx.post(f"http://127.0.0.1:{port}/gradio_api/upload", content=iter([b"x"]), timeout=30)
    assert chunked.status_code == 411 and "Content-Length" in chunked.json()["error"]
    assert "1.png" not in names(folder)


def test_uploads_under_way_count_before_they_are_there(page):
    port, _ = page
    slow = begin(port, 70_000)
    wait_for(lambda: post(port, 2, 40_000).status_code == 413)
    assert post(port, 2, 10_000).status_code == 200
    slow.close()
    wait_for(lambda: post(port, 2, 40_000).status_code == 200)


def test_what_an_upload_left_that_was_given_up_is_removed(page):
    port, folder = page
    connection = begin(port, 70_000, bytes(40_000))
    wait_for(lambda: [path for path in folder.glob("*/tmp*") if path.stat().st_size])
    connection.close()
    wait_for(lambda: post(port, 3, 20_000).status_code == 200)  # it counts no more as under way
    (left,) = [path for path in folder.glob("*/tmp*") if path.stat().st_size]
    assert post(port, 4, 80_000).status_code == 413 and left.exists()  # it might still grow
    os.utime(left, (time.time() - 3600,) * 2)
    assert post(port, 4, 80_000).status_code == 200 and not left.exists()
