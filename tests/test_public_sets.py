"""Public sets: what is downloaded, checked and put in place. A server of this machine stands in."""

import functools
import hashlib
import http.server
import io
import re
import tarfile
import threading
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from fdforce import public_sets
from fdforce.cli import main
from fdforce.errors import FdforceError
from fdforce.formats import STRUCTURES
from fdforce.public_sets import SETS, PublicSet, fetch
from fdforce.structure_files import read_file


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.path == "/short":  # promises more than it sends
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"x" * 10)
        else:
            super().do_GET()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a server, and the folder that it serves."""
    folder = tmp_path_factory.mktemp("served")
    handler = functools.partial(Handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", folder
        server.shutdown()
        thread.join()


@pytest.fixture
def water(server, monkeypatch):
    """A set of three structures that is known by name, as the server has it."""
    address, folder = server
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    positions = np.arange(27.0).reshape(3, 3, 3)
    content = io.BytesIO()
    np.savez(content, z=[8, 1, 1], R=positions, E=[1.0, 2.0, 3.0], F=-positions)
    (folder / "water.npz").write_bytes(content.getvalue())
    chosen = PublicSet(
        url=f"{address}/water.npz",
        file="water.npz",
        format="md17",
        reference="nobody",
        licence="CC0",
        size=len(content.getvalue()),
        md5=hashlib.md5(content.getvalue()).hexdigest(),
        sha256=hashlib.sha256(content.getvalue()).hexdigest(),
        n_structures=3,
    )
    monkeypatch.setitem(SETS, "water", chosen)
    return chosen


def fails(match, name, folder):
    with pytest.raises(FdforceError, match=match) as caught:
        fetch(name, folder)
    assert len(str(caught.value).splitlines()) <= 2
    return str(caught.value)


def test_a_set_arrives_once_and_is_checked(water, tmp_path, monkeypatch):
    path = fetch("public:water", tmp_path / "sets")
    assert path == tmp_path / "sets" / "water.npz"
    assert len(read_file(path)) == 3
    assert [file.name for file in path.parent.iterdir()] == ["water.npz"]
    monkeypatch.setattr("urllib.request.urlopen", None)  # there already: the net is not asked
    assert fetch("water", tmp_path / "sets") == path
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    fails(r"water.npz: its md5 is \w+, the known one \w+: damaged", "water", tmp_path / "sets")
    path.write_bytes(b"")
    fails(r"0 bytes, where \d+ are known; remove it", "water", tmp_path / "sets")


def test_a_file_url(water, server, tmp_path, monkeypatch):
    monkeypatch.setitem(SETS, "water", replace(water, url=(server[1] / "water.npz").as_uri()))
    assert fetch("water", tmp_path).stat().st_size == water.size


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"md5": "0" * 32}, r"water, from http\S*: its md5 is \w+, the known one 0+"),
        ({"sha256": "0" * 64}, "its sha256 is"),
        ({"size": 7}, r"\d+ bytes, where 7 are known"),
        ({"url": "/absent"}, r"cannot be downloaded \(File not found\)"),
        ({"url": "/short"}, r"cannot be downloaded \(the connection ended early\)"),
        ({"member": "a/b"}, "a/b cannot be taken out of the archive"),
    ],
)
def test_what_is_not_right_does_not_stay(water, server, tmp_path, monkeypatch, change, match):
    if "url" in change:
        change = {"url": server[0] + change["url"]}
    monkeypatch.setitem(SETS, "water", replace(water, **change))
    fails(match, "water", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/water.npz", "http://host.invalid/water.npz"])
def test_without_a_network_the_message_says_what_to_do(water, tmp_path, monkeypatch, url):
    monkeypatch.setitem(SETS, "water", replace(water, url=url))
    said = fails(r"public:water: cannot be downloaded", "water", tmp_path)
    assert f"Fetch {url} where there is a network and put it at {tmp_path / 'water.npz'}" in said


def test_a_member_of_an_archive(water, server, tmp_path, monkeypatch):
    with tarfile.open(server[1] / "all.tar.gz", "w:gz") as archive:
        archive.add(server[1] / "water.npz", "all/water.npz")
    member = replace(
        water, url=f"{server[0]}/all.tar.gz", member="all/water.npz", size=None, md5="", sha256=""
    )
    monkeypatch.setitem(SETS, "water", member)
    path = fetch("water", tmp_path)
    assert len(read_file(path)) == 3
    assert [file.name for file in tmp_path.iterdir()] == ["water.npz"]


def test_convert_takes_a_public_set_and_counts_it(water, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["convert", "public:water", "out.extxyz", "--folder", "d"])
    assert result.exit_code == 0, result.output
    assert "public:water: checked by sha256, number of structures" in result.output
    assert "out.extxyz: 3 structures, 9 atoms; with energy 3, forces 3" in result.output
    assert (tmp_path / "d" / "water.npz").exists()
    monkeypatch.setitem(SETS, "water", replace(water, n_structures=4))
    result = CliRunner().invoke(main, ["convert", "public:water", "2.extxyz", "--folder", "d"])
    assert result.exit_code == 1
    assert "3 structures, where 4 are known to be" in result.output
    assert not (tmp_path / "2.extxyz").exists()


def test_the_table_is_well_formed():
    for name, each in SETS.items():
        assert re.fullmatch(r"[a-z0-9-]+", name)
        assert each.url.startswith(("https://", "http://www.quantum-machine.org/"))
        assert each.format in STRUCTURES, name
        assert re.fullmatch(r"([0-9a-f]{32})?", each.md5), name
        assert re.fullmatch(r"([0-9a-f]{64})?", each.sha256), name
        assert each.reference, name
        assert each.licence, name
        # over plain http something has to tell whether the file is the right one
        assert each.checked_by, name
    files = [each.file for each in SETS.values()]
    assert len(set(files)) == len(files)
    assert SETS["iso17-test-eq"].checked_by.startswith("nothing")


def test_the_list_for_users():
    result = CliRunner().invoke(main, ["convert", "--list-public"])
    assert result.exit_code == 0
    assert len(result.output.splitlines()) == len(SETS)
    assert "qm9                  133885 structures; 86 MB; licence CC0; Ramakr" in result.output


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(
        FdforceError, match="public:md18: no such public set is known; known are rmd"
    ):
        public_sets.find_set("md18")
