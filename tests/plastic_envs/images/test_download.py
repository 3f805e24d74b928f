"""Downloads from a server on this machine, which breaks off, lies or is not there."""

import hashlib
import http.server
import subprocess
import sys
import threading
import time

import pytest

from plastic_envs.images import download as module
from plastic_envs.images.download import Remote, download

CONTENT = bytes(range(256)) * 400
MD5 = hashlib.md5(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """`/ranges` serves parts, `/whole` only all, `/short` breaks off, `/wrong` has other bytes, the rest is missing.

    `/endless` has no end and says no length, `/drips` sends a byte now and then, `/odd` says a length that is none,
    `/slow` serves all, but so late that others may be quicker.
    """

    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.asked.append((self.path, asked))
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.path == "/ranges" else 0
        if self.path in ("/endless", "/drips", "/odd", "/slow"):
            self.misbehave()
        elif self.path not in ("/ranges", "/whole", "/short", "/wrong"):
            self.send_error(404)
        elif start >= len(CONTENT):
            self.send_error(416)
        else:
            body = CONTENT[::-1] if self.path == "/wrong" else CONTENT[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:1000] if self.path == "/short" else body)

    def misbehave(self):
        self.send_response(200)
        if self.path in ("/odd", "/slow"):
            self.send_header("Content-Length", "abc" if self.path == "/odd" else str(len(CONTENT)))
        self.end_headers()
        try:
            if self.path == "/slow":
                self.wfile.write(CONTENT[:1000])
                self.wfile.flush()
                self.server.arrived.wait(timeout=300)
                self.wfile.write(CONTENT[1000:])
            while self.path in ("/endless", "/drips"):
                self.wfile.write(b"x" if self.path == "/drips" else CONTENT)
                self.server.sent += len(CONTENT)
                time.sleep(0.01 if self.path == "/drips" else 0)
        except OSError:
            pass  # the other side has had enough

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked, server.sent = [], 0
        server.arrived = threading.Barrier(4)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        server.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield server
        server.shutdown()
        thread.join()


def remote(server, *paths):
    return Remote("file.bin", MD5, [f"{server.url}/{path}" for path in paths], at_most=2**20)


def test_file_arrives_whole_under_its_name_and_is_not_fetched_again(server, tmp_path):
    folder = tmp_path / "new" / "folder"
    for _ in range(2):
        path = download(remote(server, "ranges"), folder)
        assert path == folder / "file.bin" and path.read_bytes() == CONTENT
    assert list(folder.iterdir()) == [path]
    assert server.asked == [("/ranges", None)]


def test_mirrors_are_tried_in_turn(server, tmp_path):
    download(remote(server, "missing", "wrong", "whole", "ranges"), tmp_path)
    assert [path for path, _ in server.asked] == ["/missing", "/wrong", "/whole"]


def test_goes_on_where_it_broke_off(server, tmp_path):
    with pytest.raises(ConnectionError, match=f"broke off after 1000 of {len(CONTENT)} bytes"):
        download(remote(server, "short"), tmp_path)
    assert (tmp_path / "file.bin.part").stat().st_size == 1000
    assert download(remote(server, "ranges"), tmp_path).read_bytes() == CONTENT
    assert server.asked[-1] == ("/ranges", "bytes=1000-")
    assert not (tmp_path / "file.bin.part").exists()


@pytest.mark.parametrize("have", [1000, len(CONTENT), len(CONTENT) + 5])
def test_begins_anew_where_a_server_gives_no_parts_or_too_much_is_here(server, tmp_path, have):
    (tmp_path / "file.bin.part").write_bytes((CONTENT + b"extra")[:have])
    # The second time, if what was here was wrong, it is gone.
    assert download(remote(server, "ranges", "whole"), tmp_path).read_bytes() == CONTENT
    (tmp_path / "file.bin").unlink()
    (tmp_path / "file.bin.part").write_bytes(b"x" * 1000)
    assert download(remote(server, "whole"), tmp_path).read_bytes() == CONTENT


def test_wrong_checksum_leaves_nothing_behind(server, tmp_path):
    found = hashlib.md5(CONTENT[::-1]).hexdigest()
    with pytest.raises(ConnectionError, match=rf"checksum \(md5\) should be {MD5}, is {found}"):
        download(remote(server, "wrong"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_all_that_went_wrong_is_said(server, tmp_path):
    nobody = Remote("file.bin", MD5, [f"{server.url}/missing", "http://127.0.0.1:9/file.bin"], at_most=2**20)
    with pytest.raises(ConnectionError, match=r"(?s)file\.bin could not.*missing: HTTP Error 404.*:9/file\.bin: "):
        download(nobody, tmp_path)


def test_bodies_without_end_are_broken_off(server, tmp_path):
    with pytest.raises(
        ConnectionError, match=r"the server sent more than 1048576 bytes, the upper bound for file\.bin"
    ):
        download(remote(server, "endless"), tmp_path)
    # Beside what was read there is what lies in the buffers between both.
    assert list(tmp_path.iterdir()) == [] and server.sent < 2**25


def test_servers_that_drip_are_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_WHOLE", 0.1)
    with pytest.raises(ConnectionError, match=r"stopped after \d+ bytes, as it took more than 0 seconds"):
        download(remote(server, "drips"), tmp_path)


def test_lengths_that_are_none_are_named(server, tmp_path):
    with pytest.raises(ConnectionError, match="Content-Length must be a whole number, got 'abc'"):
        download(remote(server, "odd"), tmp_path)


@pytest.mark.parametrize("content", [b"", CONTENT[:-1], CONTENT[::-1]])
def test_what_is_there_is_not_trusted_without_its_checksum(server, tmp_path, content):
    (tmp_path / "file.bin").write_bytes(content)
    with pytest.raises(ValueError, match=rf"file\.bin is there, but its checksum \(md5\) should be {MD5}, is .*delete"):
        download(remote(server, "whole"), tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == content and server.asked == []


def test_checksums_of_what_is_there_are_computed_once(server, tmp_path, monkeypatch):
    (tmp_path / "file.bin").write_bytes(CONTENT)
    calls = []
    monkeypatch.setattr(module, "_md5", lambda path: calls.append(path) or MD5)
    for _ in range(3):
        download(remote(server, "whole"), tmp_path)
    assert len(calls) == 1


def test_processes_that_download_at_the_same_time_all_get_the_file(server, tmp_path):
    """None of four has the file before all have begun; one of them goes on from what was left behind."""
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:500])
    code = (
        "import sys; from plastic_envs.images.download import Remote, download; "
        f"path = download(Remote('file.bin', {MD5!r}, ['{server.url}/slow'], 2**20), {str(tmp_path)!r}); "
        "sys.exit(len(path.read_bytes()) != 102400)"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(4)]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, errors
    assert [file.name for file in tmp_path.iterdir()] == ["file.bin"]
    assert sorted(str(asked) for _, asked in server.asked) == ["None"] * 3 + ["bytes=500-"]
