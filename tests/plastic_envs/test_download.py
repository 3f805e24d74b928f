"""Downloads from a server on this machine, which breaks off, lies or is not there."""

import hashlib
import http.server
import threading

import pytest

from plastic_envs.images.download import Remote, download

CONTENT = bytes(range(256)) * 400
MD5 = hashlib.md5(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """`/ranges` serves parts, `/whole` only all, `/short` breaks off, `/wrong` has other bytes, the rest is missing."""

    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.asked.append((self.path, asked))
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.path == "/ranges" else 0
        if self.path not in ("/ranges", "/whole", "/short", "/wrong"):
            self.send_error(404)
        elif start >= len(CONTENT):
            self.send_error(416)
        else:
            body = CONTENT[::-1] if self.path == "/wrong" else CONTENT[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:1000] if self.path == "/short" else body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        server.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield server
        server.shutdown()
        thread.join()


def remote(server, *paths):
    return Remote("file.bin", MD5, [f"{server.url}/{path}" for path in paths])


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
    nobody = Remote("file.bin", MD5, [f"{server.url}/missing", "http://127.0.0.1:9/file.bin"])
    with pytest.raises(ConnectionError, match=r"(?s)file\.bin could not.*missing: HTTP Error 404.*:9/file\.bin: "):
        download(nobody, tmp_path)
