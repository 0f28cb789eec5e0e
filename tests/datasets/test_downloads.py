"""A download is whole or not there, goes on where it can, and is held to what came first.

The record is served by this machine, and everything else is pooch as it is.
"""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from requests.exceptions import ConnectionError as NoNetwork

from mmlab.datasets import downloads, load
from mmlab.datasets import phone_watch_windows as windows

DOI = "10.5281/zenodo.1"
FILES = {"notes.txt": b"a few words", "owner/data-1.0.zip": bytes(range(256)) * 4000}


class Record:
    """A record on Zenodo, as pooch sees it, and the server that its files come from."""

    def __init__(self, files):
        self.files, self.cut, self.asked = dict(files), set(), []
        record = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path[1:]
                record.asked.append(name)
                content = record.files[name]
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2] if name in record.cut else content)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def populate_registry(self, record):
        for name, content in self.files.items():
            record.registry[name] = f"md5:{hashlib.md5(content).hexdigest()}"

    def download_url(self, name):
        return f"http://127.0.0.1:{self.server.server_port}/{name}"

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def record(monkeypatch):
    made = Record(FILES)
    for module in ("pooch.core", "pooch.downloaders"):
        monkeypatch.setattr(f"{module}.doi_to_repository", lambda *_, **__: made)
    monkeypatch.setattr("time.sleep", lambda _: None)  # between pooch's tries
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield made
    made.close()


def names(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_an_archive_is_fetched_once(record, tmp_path, monkeypatch):
    found = downloads.fetch_archive(DOI, tmp_path)
    assert found.read_bytes() == FILES["owner/data-1.0.zip"]
    monkeypatch.setattr("pooch.create", lambda **_: pytest.fail("the network was asked again"))
    assert downloads.fetch_archive(DOI, tmp_path) == found


def test_a_download_that_stops_leaves_nothing_and_the_next_one_goes_on(record, tmp_path):
    record.cut.add("owner/data-1.0.zip")
    with pytest.raises(ConnectionError, match=r"could not fetch the record 10\.5281/zenodo\.1"):
        downloads.fetch_archive(DOI, tmp_path)
    assert names(tmp_path) == {"notes.txt"}
    record.cut.clear()
    record.asked.clear()
    found = downloads.fetch_archive(DOI, tmp_path)
    assert found.read_bytes() == FILES["owner/data-1.0.zip"]
    assert record.asked == ["owner/data-1.0.zip"], "what was whole is not fetched again"


def test_a_file_that_was_changed_on_its_way_is_refused(record, tmp_path, monkeypatch):
    wrong = dict.fromkeys(FILES, "md5:" + "0" * 32)
    monkeypatch.setattr(record, "populate_registry", lambda made: made.registry.update(wrong))
    with pytest.raises(ConnectionError, match=r"(?i)md5"):
        downloads.fetch_archive(DOI, tmp_path)
    assert names(tmp_path) == set()


def test_a_deleted_file_is_fetched_again(record, tmp_path):
    downloads.fetch_archive(DOI, tmp_path).unlink()
    assert downloads.fetch_archive(DOI, tmp_path).is_file()


def test_a_record_with_a_path_out_of_the_folder_is_refused(record, tmp_path):
    record.files["../elsewhere.zip"] = b"x"
    with pytest.raises(ConnectionError, match=r"'\.\./elsewhere\.zip', which lies outside"):
        downloads.fetch_archive(DOI, tmp_path / "inner")
    assert names(tmp_path) == set()


def test_a_record_without_one_archive_is_said(record, tmp_path):
    del record.files["owner/data-1.0.zip"]
    with pytest.raises(ValueError, match=r"holds 0 zip archives \(notes\.txt\).*root='FOLDER'"):
        downloads.fetch_archive(DOI, tmp_path)


def test_no_network_says_what_to_do(monkeypatch, tmp_path):
    def fail(*_, **__):
        raise NoNetwork("no route")

    monkeypatch.setattr("pooch.os_cache", lambda _: tmp_path)
    monkeypatch.setattr("requests.get", fail)
    with pytest.raises(
        ConnectionError, match=r"no route.*https://doi\.org/10\.5281/zenodo\.8398688.*root='FILE\.z"
    ):
        load("phone-watch")


def test_the_first_content_is_noted_and_another_refused(tmp_path, capsys):
    downloads.check_pin(tmp_path, "the set", "abc")
    assert "the set: content SHA-256 abc, noted in" in capsys.readouterr().out
    downloads.check_pin(tmp_path, "the set", "abc")
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match=r"SHA-256 def.*first download had abc.*delete .*sha256"):
        downloads.check_pin(tmp_path, "the set", "def")


def test_a_fetched_set_must_be_the_one_we_know(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="has 0 executions instead of 223; delete the folder"):
        windows._check_published(tmp_path, {})
    monkeypatch.setattr(windows, "EXECUTIONS", 0)
    windows._check_published(tmp_path, {})
    assert (tmp_path / downloads.PIN).is_file()
    monkeypatch.setattr(windows, "CONTENT_SHA256", "abc")
    with pytest.raises(ValueError, match="instead of abc; delete the folder"):
        windows._check_published(tmp_path, {})
