"""Finding parts: entry points of installed distributions and parts of this process, by name only when asked."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mqcore.abc import Codec
from mqcore.errors import ConfigurationError, PluginInvalidError, PluginNotFoundError
from mqcore.ports import Buffer
from mqcore.registry import codec_of_tag, find, find_codec, installed, list_plugins, register, unregister


class Upper(Codec):
    name = "upper"
    tag = 200

    def compress(self, payload: Buffer) -> bytes:
        return bytes(payload).upper()

    def decompress(self, payload: Buffer, size: int) -> bytes:
        return bytes(payload)[:size]


class AlsoUpper(Upper):
    name = "also-upper"


class Halfway(Codec):
    name = "halfway"
    tag = 201

    def compress(self, payload: Buffer) -> bytes:
        return bytes(payload)


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    for name in ("upper", "also-upper", "halfway", "zlib", "odd"):
        unregister("codecs", name)


def distribution(folder: Path, name: str, entry_points: str, module: str = "") -> None:
    """Install a distribution by hand: its metadata, and a module of the same name."""
    facts = folder / f"{name}-1.2.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (facts / "entry_points.txt").write_text(entry_points)
    (folder / f"{name.replace('-', '_')}.py").write_text(module)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that stands for site-packages."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_part_is_found_by_the_name_of_its_entry_point_and_nothing_else_is_imported(site: Path) -> None:
    distribution(site, "shelf-bomb", "[mqcore.codecs]\nbomb = shelf_bomb:X\n", "raise RuntimeError('imported')")
    body = "class Shelf(Codec):\n name='shelf'\n tag=222\n compress=decompress=lambda *a: b''\n"
    module = "from mqcore.abc import Codec\n" + body
    distribution(site, "shelf-good", "[mqcore.codecs]\nshelf = shelf_good:Shelf\n", module)
    assert find("codecs", "shelf").__name__ == "Shelf"
    assert "shelf_bomb" not in sys.modules
    (item,) = installed("codecs", "shelf")
    assert (item.distribution, item.version, item.target) == ("shelf-good", "1.2", "shelf_good:Shelf")


def test_a_name_that_nobody_has_lists_what_is_installed() -> None:
    with pytest.raises(
        PluginNotFoundError, match=r"no storage backend is called 'nope'; installed: memory, mmap, null"
    ):
        find("storage", "nope")
    with pytest.raises(
        PluginNotFoundError, match=r"no transport is called 'carrier-pigeon'; installed: inproc, quic, tcp, tls, unix"
    ):
        find("transports", "carrier-pigeon")
    with pytest.raises(ConfigurationError, match=r"unknown plug-in group 'colours'; one of storage, transports"):
        find("colours", "x")


def test_two_parts_of_one_name_are_refused_naming_both_distributions(site: Path) -> None:
    for name in ("first-shelf", "second-shelf"):
        distribution(site, name, f"[mqcore.storage]\nshelf = {name.replace('-', '_')}:Shelf\n")
    with pytest.raises(
        PluginInvalidError, match=r"two storage backends are called 'shelf'.*first-shelf 1.2.*second-shelf 1.2"
    ):
        find("storage", "shelf")
    with pytest.raises(PluginNotFoundError):
        find("storage", "other")


def test_an_installed_part_and_one_of_this_process_clash_too() -> None:
    register("codecs", "zlib", Upper)
    with pytest.raises(PluginInvalidError, match=r"two codecs are called 'zlib': .*this process .*Upper"):
        find("codecs", "zlib")
    register("codecs", "upper", Upper)
    register("codecs", "upper", Upper)
    with pytest.raises(PluginInvalidError, match="two codecs are called 'upper'"):
        register("codecs", "upper", AlsoUpper)


def test_a_broken_import_is_one_line_with_its_cause(site: Path) -> None:
    distribution(
        site,
        "shelf-lost",
        "[mqcore.storage]\nlost = shelf_lost:Shelf\nsyntax = shelf_lost.x:Y\n",
        "import not_there\n",
    )
    with pytest.raises(PluginInvalidError) as caught:
        find("storage", "lost")
    message = str(caught.value)
    assert "\n" not in message
    assert "shelf-lost 1.2" in message
    assert "ModuleNotFoundError: No module named 'not_there'" in message


@pytest.mark.parametrize(
    ("body", "said"), [("x = 3", "no class derived from mqcore.abc.StorageBackend"), ("y = 3", "AttributeError")]
)
def test_an_entry_point_that_leads_to_no_part_is_refused(site: Path, body: str, said: str) -> None:
    module = f"shelf_odd_{said[:2].strip()}"
    distribution(site, module, f"[mqcore.storage]\nodd = {module}:x\n", body)
    with pytest.raises(PluginInvalidError, match=said):
        find("storage", "odd")


def test_a_missing_method_is_named_when_the_part_is_found() -> None:
    register("codecs", "halfway", Halfway)
    with pytest.raises(PluginInvalidError, match=r"'halfway' of this process .* does not define decompress"):
        find("codecs", "halfway")


def test_codecs_are_found_by_tag_and_made_once() -> None:
    assert codec_of_tag(1) is find_codec("zlib") is codec_of_tag(1)
    register("codecs", "upper", Upper)
    assert codec_of_tag(200) is find_codec("upper")
    for tag, said in ((199, "private tag 199"), (17, "no codec has the tag 17"), (0, "no codec has the tag 0")):
        with pytest.raises(PluginNotFoundError, match=said):
            codec_of_tag(tag)


def test_two_codecs_of_one_tag_are_refused() -> None:
    class First(Upper):
        tag = 210

    class Second(AlsoUpper):
        tag = 210

    register("codecs", "upper", First)
    register("codecs", "also-upper", Second)
    with pytest.raises(PluginInvalidError, match=r"two codecs have the tag 210: also-upper and upper"):
        codec_of_tag(210)


def test_a_codec_whose_library_is_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from mqcore.registry import _compose

    monkeypatch.setattr(_compose, "_codecs", {})
    monkeypatch.setitem(sys.modules, "lz4", None)
    monkeypatch.setitem(sys.modules, "lz4.block", None)
    monkeypatch.setitem(sys.modules, "lz4.frame", None)
    for name in [name for name in sys.modules if name.startswith("mqcore_codecs")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises((PluginNotFoundError, PluginInvalidError), match=r"pip install 'mqcore\[lz4\]'"):
        find_codec("lz4").compress(b"x")


def test_the_list_of_parts_goes_on_past_a_broken_one(site: Path) -> None:
    distribution(site, "shelf-bad", "[mqcore.codecs]\nbad = shelf_bad:X\n", "raise RuntimeError('no')")
    register("codecs", "upper", Upper)
    reports = {(report.group, report.name): report for report in list_plugins()}
    bad = reports["codecs", "bad"]
    assert (bad.loads, bad.distribution, bad.version) == (False, "shelf-bad", "1.2")
    assert "RuntimeError: no" in bad.problem
    assert reports["codecs", "upper"].capabilities == {"tag": 200}
    zlib = reports["codecs", "zlib"]
    assert (zlib.loads, zlib.problem, zlib.capabilities) == (True, "", {"tag": 1})


def test_a_distribution_that_comes_or_goes_while_the_process_runs_is_noticed(site: Path) -> None:
    with pytest.raises(PluginNotFoundError):
        find("storage", "late")
    distribution(site, "shelf-late", "[mqcore.storage]\nlate = shelf_late:Shelf\n")
    (item,) = installed("storage", "late")
    assert item.distribution == "shelf-late"
    (site / "shelf-late-1.2.dist-info").rename(site / "elsewhere")
    assert installed("storage", "late") == []
