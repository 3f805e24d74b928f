"""Downloads from a local server that closes connections, sends wrong bytes or is missing."""

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
    """A server with a working and several faulty paths.

    `/ranges` supports ranges and `/whole` does not. `/short` closes the connection early, `/wrong` sends wrong bytes.
    `/endless` sends bytes forever without a length, `/drips` sends single bytes slowly, and `/odd` sends an invalid
    length. `/slow` waits for all clients before it completes the file. All other paths are missing.
    """

    def do_GET(self):
        byte_range = self.headers.get("Range")
        self.server.requests.append((self.path, byte_range))
        start = int(byte_range.removeprefix("bytes=").rstrip("-")) if byte_range and self.path == "/ranges" else 0
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
            pass  # the client closed the connection

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.requests, server.sent = [], 0
        server.arrived = threading.Barrier(4)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        server.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield server
        server.shutdown()
        thread.join()


def remote(server, *paths):
    return Remote("file.bin", MD5, [f"{server.url}/{path}" for path in paths], max_size=2**20)


def test_file_is_downloaded_once(server, tmp_path):
    folder = tmp_path / "new" / "folder"
    for _ in range(2):
        path = download(remote(server, "ranges"), folder)
        assert path == folder / "file.bin"
        assert path.read_bytes() == CONTENT
    assert list(folder.iterdir()) == [path]
    assert server.requests == [("/ranges", None)]


def test_mirrors_are_tried_in_turn(server, tmp_path):
    download(remote(server, "missing", "wrong", "whole", "ranges"), tmp_path)
    assert [path for path, _ in server.requests] == ["/missing", "/wrong", "/whole"]


def test_download_resumes_a_partial_file(server, tmp_path):
    with pytest.raises(ConnectionError, match=f"the connection closed after 1000 of {len(CONTENT)} bytes"):
        download(remote(server, "short"), tmp_path)
    assert (tmp_path / "file.bin.part").stat().st_size == 1000
    assert download(remote(server, "ranges"), tmp_path).read_bytes() == CONTENT
    assert server.requests[-1] == ("/ranges", "bytes=1000-")
    assert not (tmp_path / "file.bin.part").exists()


@pytest.mark.parametrize("partial_size", [1000, len(CONTENT), len(CONTENT) + 5])
def test_download_restarts_without_range_support_or_after_a_wrong_partial_file(server, tmp_path, partial_size):
    (tmp_path / "file.bin.part").write_bytes((CONTENT + b"extra")[:partial_size])
    # If the partial file is wrong, the first mirror fails and the second one starts over.
    assert download(remote(server, "ranges", "whole"), tmp_path).read_bytes() == CONTENT
    (tmp_path / "file.bin").unlink()
    (tmp_path / "file.bin.part").write_bytes(b"x" * 1000)
    assert download(remote(server, "whole"), tmp_path).read_bytes() == CONTENT


def test_wrong_checksum_leaves_no_files(server, tmp_path):
    wrong_md5 = hashlib.md5(CONTENT[::-1]).hexdigest()
    with pytest.raises(ConnectionError, match=rf"checksum \(md5\) must be {MD5}, got {wrong_md5}"):
        download(remote(server, "wrong"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_error_describes_the_failure_of_every_mirror(server, tmp_path):
    unreachable = Remote("file.bin", MD5, [f"{server.url}/missing", "http://127.0.0.1:9/file.bin"], max_size=2**20)
    with pytest.raises(ConnectionError, match=r"(?s)file\.bin could not.*missing: HTTP Error 404.*:9/file\.bin: "):
        download(unreachable, tmp_path)


def test_endless_body_is_aborted_at_the_maximum_size(server, tmp_path):
    with pytest.raises(ConnectionError, match=r"file\.bin must have at most 1048576 bytes, and the server sent more"):
        download(remote(server, "endless"), tmp_path)
    # The buffers of the connection have more bytes than the client has read.
    assert list(tmp_path.iterdir()) == []
    assert server.sent < 2**25


def test_slow_server_times_out(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_FILE_TIMEOUT", 0.1)
    with pytest.raises(ConnectionError, match=r"timed out after 0 seconds and \d+ bytes"):
        download(remote(server, "drips"), tmp_path)


def test_invalid_content_length_is_refused(server, tmp_path):
    with pytest.raises(ConnectionError, match="Content-Length must be a whole number, got 'abc'"):
        download(remote(server, "odd"), tmp_path)


@pytest.mark.parametrize("content", [b"", CONTENT[:-1], CONTENT[::-1]])
def test_existing_file_with_another_checksum_is_refused(server, tmp_path, content):
    (tmp_path / "file.bin").write_bytes(content)
    with pytest.raises(ValueError, match=rf"checksum \(md5\) of .*file\.bin must be {MD5}, got .*delete"):
        download(remote(server, "whole"), tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == content
    assert server.requests == []


def test_checksum_of_an_existing_file_is_computed_once(server, tmp_path, monkeypatch):
    (tmp_path / "file.bin").write_bytes(CONTENT)
    calls = []
    monkeypatch.setattr(module, "_md5", lambda path: calls.append(path) or MD5)
    for _ in range(3):
        download(remote(server, "whole"), tmp_path)
    assert len(calls) == 1


def test_concurrent_downloads_all_get_the_file(server, tmp_path):
    """The server makes four processes overlap; one of them resumes the partial file."""
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
    assert sorted(str(byte_range) for _, byte_range in server.requests) == ["None"] * 3 + ["bytes=500-"]
