"""The pytest plug-in: cheap for those who do not use it, virtual time and an open broker for those who do."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

QUIET = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}


def run_pytest(folder: Path, source: str, *options: str) -> tuple[int, str]:
    """Run pytest with our plug-in and no other on a test file of its own; return exit status and output."""
    (folder / "test_it.py").write_text(source)
    plugins = ["-p", "mqcore_pytest", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *plugins, "-q", *options, "test_it.py"]
    done = subprocess.run(command, cwd=folder, env={**os.environ, **QUIET}, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_the_plug_in_is_found_by_pytest() -> None:
    points = importlib.metadata.entry_points(group="pytest11")
    assert [point.value for point in points if point.name == "mqcore"] == ["mqcore_pytest"]


def test_a_run_that_does_not_use_it_loads_nothing_of_ours_and_no_library(tmp_path: Path) -> None:
    status, output = run_pytest(
        tmp_path,
        "import sys\n"
        "def test_modules():\n"
        "    assert 'mqcore_pytest' in sys.modules\n"
        "    loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "    assert loaded.isdisjoint({'mqcore', 'trio', 'attr', 'attrs', 'cattrs', 'click', 'rich', 'hypothesis'})\n",
    )
    assert status == 0, output


def test_mqcore_run_runs_on_virtual_time_from_a_seed(tmp_path: Path) -> None:
    status, output = run_pytest(
        tmp_path,
        "import random, trio\n"
        "def test_hours(mqcore_run):\n"
        "    async def main(hours):\n"
        "        await trio.sleep(hours * 3600)\n"
        "        return trio.current_time(), random.random()\n"
        "    assert mqcore_run(main, 5, seed=3) == mqcore_run(main, 5, seed=3)\n"
        "    assert mqcore_run(main, 5, seed=3)[0] == 5 * 3600\n",
    )
    assert status == 0, output


def test_mqcore_broker_gives_an_open_broker_on_virtual_time_without_a_port(tmp_path: Path) -> None:
    status, output = run_pytest(
        tmp_path,
        "import mqcore, pytest, trio\n"
        "async def test_open(mqcore_broker, tmp_path):\n"
        "    assert [url.partition(':')[0] for url in mqcore_broker.urls] == ['inproc']\n"
        "    async with mqcore.connect(mqcore_broker.urls[0]) as client:\n"
        "        await client.admin.create_topic('lines')\n"
        "        async with client.producer('lines') as producer:\n"
        "            await producer.send(b'hello')\n"
        "        async with client.consumer('lines', start='start') as consumer:\n"
        "            assert (await consumer.__anext__()).value == b'hello'\n"
        "    await trio.sleep(10 * 3600)\n"
        "    assert trio.current_time() >= 36000\n"
        "@pytest.mark.mqcore_broker(seed=5, name='other')\n"
        "async def test_arguments(mqcore_broker):\n"
        "    assert mqcore_broker.config.name == 'other'\n"
        "@pytest.mark.parametrize('number', [1, 2])\n"
        "async def test_parameters(mqcore_broker, number):\n"
        "    assert number in (1, 2)\n",
        "--strict-markers",
    )
    assert status == 0, output


def test_a_failing_test_beside_a_broker_fails_and_a_plain_function_is_told(tmp_path: Path) -> None:
    status, output = run_pytest(
        tmp_path,
        "async def test_wrong(mqcore_broker):\n    assert mqcore_broker is None\n"
        "def test_plain(mqcore_broker):\n    pass\n",
    )
    assert status == 1
    assert "test_wrong - " in output
    assert "ERROR test_it.py::test_plain" in output
    assert "is 'async def'" in output
