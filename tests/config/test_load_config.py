"""A broker's configuration from a TOML file, the environment and arguments."""

import re
from pathlib import Path

import pytest

from mqcore.abc import Capabilities
from mqcore.config import (
    DEFAULT_LISTEN,
    FlushTable,
    ListenTable,
    StorageTable,
    TopicConfig,
    build_of,
    load_config,
    make_config,
)
from mqcore.errors import ConfigurationError
from mqcore.guarantees import (
    AsyncFlush,
    AsyncReplication,
    Fault,
    Level,
    NoFlush,
    NoReplication,
    SyncFlush,
    SyncReplication,
)
from mqcore.limits import Limits

WHOLE = """
name = "shop"
survive = ["process-kill", "power-cut"]
log_level = "debug"

[storage]
url = "mmap:///var/lib/mq"
segment_bytes = "64 MiB"

[[listen]]
url = "tcp://0.0.0.0:7400"

[[listen]]
url = "unix:///run/mq.sock"
mode = "0600"

[flush]
policy = "async"
max_messages = "10k"
max_interval = "200 ms"
total_bytes_max = "1 GB"

[replication]
policy = "none"

[limits]
batch_bytes_max = "2 MiB"
idle_timeout = "1 m"

[topics.orders]
partitions = 8
flush = "sync"
weakest_send = "async(max_bytes=1 MB)"
visible = "stable"

[topics."metrics.raw"]
flush = { policy = "async", max_bytes = "1 MB" }
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "broker.toml"
    path.write_text(text)
    return path


def test_every_table_is_read(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, WHOLE))
    assert (config.name, config.log_level) == ("shop", "debug")
    assert config.survive == (Fault.PROCESS_KILL, Fault.POWER_CUT)
    assert config.storage == StorageTable(url="mmap:///var/lib/mq", options={"segment_bytes": "64 MiB"})
    assert config.listen == (
        ListenTable(url="tcp://0.0.0.0:7400"),
        ListenTable(url="unix:///run/mq.sock", options={"mode": "0600"}),
    )
    assert config.flush.value == AsyncFlush(max_messages=10_000, max_interval_ms=200)
    assert config.flush.total_bytes_max == 10**9
    assert config.replication.value == NoReplication()
    assert config.limits == Limits(batch_bytes_max=2 * 2**20, idle_timeout_ms=60_000)
    assert config.topics == {
        "orders": TopicConfig(
            partitions=8,
            flush=SyncFlush(),
            weakest_send=AsyncFlush(max_bytes=10**6),
            visible="stable",
        ),
        "metrics.raw": TopicConfig(flush=AsyncFlush(max_bytes=10**6)),
    }


def test_keyword_arguments_take_short_forms_values_and_tables() -> None:
    config = make_config(storage="memory://", listen=["tcp://127.0.0.1:0"], flush="sync")
    assert config.storage == StorageTable(url="memory://")
    assert config.listen == (ListenTable(url="tcp://127.0.0.1:0"),)
    assert config.flush.value == SyncFlush()
    values = make_config(
        storage={"url": "memory://", "arena_bytes": 4096},
        listen="inproc://x",
        flush=AsyncFlush(max_bytes=5),
        replication=SyncReplication(copies=3, level=Level.DISK),
        limits=Limits(topics_max=3),
        topics={"a": TopicConfig(partitions=2), "b": {"partitions": 3}},
        survive=[Fault.POWER_CUT, "process-kill"],
    )
    assert values.storage.options == {"arena_bytes": 4096}
    assert values.flush == FlushTable(policy="async", max_bytes=5)
    assert values.replication.value == SyncReplication(copies=3, level=Level.DISK)
    assert values.limits.topics_max == 3
    assert [topic.partitions for topic in values.topics.values()] == [2, 3]
    assert values.survive == (Fault.POWER_CUT, Fault.PROCESS_KILL)


def test_a_served_broker_listens_by_default_and_an_embedded_one_does_not() -> None:
    assert [table.url for table in load_config(overrides={"storage": "memory://"}).listen] == [DEFAULT_LISTEN]
    assert make_config(storage="memory://").listen == ()
    assert load_config(overrides={"storage": "memory://", "listen": []}).listen == ()


def test_the_flush_policy_is_open_until_the_storage_is_known_and_async_alone_has_the_default_bounds() -> None:
    assert make_config(storage="memory://").flush.value is None
    assert make_config(storage="memory://", flush="async").flush.value == AsyncFlush()
    assert make_config(storage="memory://", flush={"policy": "async"}).flush.value == AsyncFlush()
    in_table = make_config(storage="memory://", flush={"policy": "async(max_bytes=1 MB)", "total_bytes_max": "2 MB"})
    assert in_table.flush == FlushTable(policy="async", max_bytes=10**6, total_bytes_max=2 * 10**6)
    asked = make_config(storage="memory://", replication="async(max_delay=1 s, on_exceeded=throttle)")
    assert asked.replication.value == AsyncReplication(max_delay_ms=1000, on_exceeded="throttle")


def test_the_environment_overrides_the_file_and_arguments_override_both(tmp_path: Path) -> None:
    environment = {
        "MQCORE_NAME": "other",
        "MQCORE_STORAGE_SEGMENT_BYTES": "1 MiB",
        "MQCORE_LIMITS_IDLE_TIMEOUT": "3 s",
        "MQCORE_LIMITS_BATCH_BYTES_MAX": "1 MiB",
        "MQCORE_TOPICS_METRICS_RAW_PARTITIONS": "5",
        "MQCORE_LISTEN_1_MODE": "0660",
        "MQCORE_SURVIVE": "process-kill",
        "MQCORE_SERVER": "tcp://elsewhere:1",
        "PATH": "/bin",
    }
    config = load_config(
        write(tmp_path, WHOLE), environment=environment, overrides={"limits": {"batch_bytes_max": "8 KiB"}}
    )
    assert config.name == "other"
    assert config.storage == StorageTable(url="mmap:///var/lib/mq", options={"segment_bytes": "1 MiB"})
    assert (config.limits.idle_timeout_ms, config.limits.batch_bytes_max) == (3000, 8192)
    assert config.topics["metrics.raw"].partitions == 5
    assert config.listen[1].options == {"mode": "0660"}
    assert config.survive == (Fault.PROCESS_KILL,)


def test_who_names_a_storage_or_a_policy_replaces_the_whole_of_it(tmp_path: Path) -> None:
    path = write(tmp_path, WHOLE)
    config = load_config(
        path, environment={"MQCORE_STORAGE": "memory://", "MQCORE_FLUSH": "sync", "MQCORE_LISTEN": "tcp://a:1"}
    )
    assert config.storage == StorageTable(url="memory://")
    assert config.flush == FlushTable(policy="sync", total_bytes_max=10**9)
    assert config.listen == (ListenTable(url="tcp://a:1"),)
    flagged = load_config(path, overrides={"flush": NoFlush(), "listen": ["tcp://b:2"]})
    assert flagged.flush.value == NoFlush()
    assert [table.url for table in flagged.listen] == ["tcp://b:2"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("stroage = 1", ["unknown key", "did you mean 'storage'", "log_level"]),
        ('[storage]\nurl = "memory://"\n[limits]\nframe_max = 1', ["limits.frame_max", "frame_bytes_max"]),
        (
            'storage = "memory://"\n[limits]\nbatch_bytes_max = "2 parsecs"',
            ["limits.batch_bytes_max", "'2 parsecs'", "MiB"],
        ),
        ('storage = "memory://"\n[limits]\nbatch_bytes_max = 1', ["limits", "batch_bytes_max", ">= 4096"]),
        ('storage = "memory://"\nflush = "asink"', ["'asink'", "sync, none, async"]),
        ('storage = "memory://"\n[flush]\npolicy = "syncc"', ["flush.policy", "'syncc'", "sync, async, none"]),
        ('storage = "memory://"\n[flush]\nmax_bytes = 5', ["flush", "max_bytes", 'policy = "async"']),
        (
            'storage = "memory://"\n[replication]\npolicy = "sync"\ncopies = 1',
            ["replication", "copies = 1", "at least 2"],
        ),
        ('storage = "memory://"\n[replication]\ncopies = 2', ["replication", "copies", 'policy = "none"']),
        ('storage = "memory://"\nsurvive = ["flood"]', ["survive[0]", "'flood'", "power-cut"]),
        ('storage = "memory://"\n[topics."a/b"]', ["'a/b'", "letters"]),
        ('storage = "memory://"\n[topics.".."]', ["'..'"]),
        ('storage = "memory://"\n[topics.a]\npartitions = 0', ["topics.a", "partitions", ">= 1"]),
        ('storage = "memory://"\n[topics.a]\npartitions = 100000', ["topics.a.partitions", "10000"]),
        ('storage = "memory://"\n[topics.a]\nflush = "later"', ["topics.a.flush", "'later'"]),
        ('storage = "memory://"\n[topics]\na = 3', ["topics.a", "3 is not a table"]),
        ('storage = "memory://"\n[topics.a]\nquota = "7 d"', ["topics.a", "unknown key", "quota", "visible"]),
        ('storage = "memory://"\nlisten = ["tcp://a:1", "tcp://a:1"]', ["tcp://a:1 is given twice"]),
        ('storage = "memory://"\nlisten = 3', ["listen", "3 is not a list"]),
        ('storage = "memory://"\nname = "a b"', ["name", "'a b'"]),
        ("storage = 3", ["storage", "3 is not a table"]),
        ("", ["no storage is named", "storage.url"]),
        ("storage = ", ["not valid TOML", "Invalid value"]),
    ],
)
def test_a_bad_key_is_named_with_the_file_its_path_its_value_and_what_is_allowed(
    tmp_path: Path, text: str, named: list[str]
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigurationError) as caught:
        load_config(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    for part in named:
        assert part in message


def test_an_error_names_the_source_that_gave_the_value(tmp_path: Path) -> None:
    path = write(tmp_path, WHOLE)
    with pytest.raises(ConfigurationError, match=r"^environment: limits.batch_bytes_max: 'x'"):
        load_config(path, environment={"MQCORE_LIMITS_BATCH_BYTES_MAX": "x"})
    with pytest.raises(
        ConfigurationError, match=r"^command line: flush.policy: 'x'|^command line: unknown flush policy 'x'"
    ):
        load_config(path, overrides={"flush": "x"})
    with pytest.raises(ConfigurationError, match=r"^environment: MQCORE_FLUHS is no key"):
        load_config(path, environment={"MQCORE_FLUHS": "sync"})
    with pytest.raises(ConfigurationError, match=r"^environment: MQCORE_LISTEN_7_MODE: there are 2 listeners"):
        load_config(path, environment={"MQCORE_LISTEN_7_MODE": "0600"})
    path.write_text('storage = "memory://"\n[topics."a b"]')
    with pytest.raises(ConfigurationError, match=f"^{path}: topic name 'a b'"):  # the environment says nothing
        load_config(path, environment={"PATH": "/bin", "MQCORE_SERVER": "tcp://127.0.0.1:7400"})


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("MQCORE_FLUHS", "did you mean MQCORE_FLUSH?"),
        ("MQCORE_LIMITS_FRAM_BYTES_MAX", "did you mean MQCORE_LIMITS_FRAME_BYTES_MAX?"),
        ("MQCORE_SERVR", "did you mean MQCORE_SERVER?"),
        ("MQCORE_XYZ", "'mqcore config init' writes a file with all of them"),
    ],
)
def test_an_unknown_variable_is_told_with_the_nearest_one(variable: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(hint)):
        load_config(write(tmp_path, WHOLE), environment={variable: "1"})


KUBERNETES = {
    "MQCORE_SERVICE_HOST": "10.0.0.1",
    "MQCORE_SERVICE_PORT": "7400",
    "MQCORE_SERVICE_PORT_CLIENTS": "7400",
    "MQCORE_PORT": "tcp://10.0.0.1:7400",
    "MQCORE_PORT_7400_TCP": "tcp://10.0.0.1:7400",
    "MQCORE_PORT_7400_TCP_PROTO": "tcp",
    "MQCORE_PORT_7400_TCP_PORT": "7400",
    "MQCORE_PORT_7400_TCP_ADDR": "10.0.0.1",
}
DOCKER = {
    name.replace("MQCORE", "MQCORE_LINK"): value for name, value in KUBERNETES.items() if "SERVICE" not in name
} | {"MQCORE_LINK_NAME": "/web/mqcore_link", "MQCORE_LINK_ENV_PATH": "/bin"}
STORAGE_SERVICE = {name.replace("MQCORE", "MQCORE_STORAGE"): value for name, value in KUBERNETES.items()}


@pytest.mark.parametrize("injected", [KUBERNETES, DOCKER, STORAGE_SERVICE], ids=["service", "link", "mqcore-storage"])
def test_what_kubernetes_and_docker_inject_for_a_service_called_mqcore_is_passed_over(
    injected: dict[str, str], tmp_path: Path
) -> None:
    path = write(tmp_path, WHOLE)
    assert load_config(path, environment=injected) == load_config(path)
    with pytest.raises(ConfigurationError, match=r"^environment: MQCORE_FLUHS is no key"):
        load_config(path, environment=injected | {"MQCORE_FLUHS": "sync"})


@pytest.mark.parametrize(
    "variable", ["MQCORE_PORT", "MQCORE_SERVICE_HOST", "MQCORE_SERVICE_PORT", "MQCORE_LIMITS_ENV_X"]
)
def test_one_variable_that_looks_injected_is_no_set_and_refused(variable: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"^environment: {variable} is no key"):
        load_config(write(tmp_path, WHOLE), environment={variable: "tcp://10.0.0.1:7400"})


def test_a_broker_s_name_is_read_unless_it_is_a_link_s(tmp_path: Path) -> None:
    path = write(tmp_path, WHOLE)
    assert load_config(path, environment=KUBERNETES | {"MQCORE_NAME": "other"}).name == "other"
    assert load_config(path, environment=KUBERNETES | {"MQCORE_NAME": "/web/mqcore"}).name == load_config(path).name


@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff"], ids=["utf-8", "utf-16-le", "utf-16-be"])
def test_a_byte_order_mark_is_named_with_what_to_do(mark: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broker.toml"
    path.write_bytes(mark + b"[storage]")
    with pytest.raises(ConfigurationError, match=r"byte-order mark .* save it as UTF-8 without one"):
        load_config(path)


def test_a_variable_that_could_mean_two_topics_is_refused() -> None:
    topics = {"a-b": {}, "a.b": {}}
    with pytest.raises(ConfigurationError, match=r"MQCORE_TOPICS_A_B_PARTITIONS could mean"):
        load_config(overrides={"storage": "memory://", "topics": topics}, environment={"MQCORE_NAME": "x"})


def test_a_file_that_is_missing_a_folder_too_large_or_no_text_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.toml", tmp_path):
        with pytest.raises(ConfigurationError, match=r"cannot be read: .*config init"):
            load_config(path)
    large = tmp_path / "large.toml"
    large.write_bytes(b"#" * (1024 * 1024 + 1))
    with pytest.raises(ConfigurationError, match="larger than"):
        load_config(large)
    large.write_bytes(b"\xff\xfd")
    with pytest.raises(ConfigurationError, match="not valid TOML"):
        load_config(large)


def test_the_build_of_a_configuration_states_its_policies_and_topics(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, WHOLE))
    build = build_of(config, Capabilities(append_level=Level.PAGE_CACHE, flush_level=Level.DISK))
    assert build.flush_policy == AsyncFlush(max_messages=10_000, max_interval_ms=200)
    assert (build.storage, build.flush_level, build.total_bytes_max) == ("mmap:///var/lib/mq", Level.DISK, 10**9)
    assert {topic.name: build.flush_of(topic) for topic in build.topics}["orders"] == SyncFlush()
    other = build_of(config, Capabilities(append_level=Level.MEMORY, flush_level=Level.MEMORY), {"x": TopicConfig()})
    assert [topic.name for topic in other.topics] == ["x"]


def test_the_name_of_the_broker_may_stand_in_the_url_of_its_storage(tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text('name = "a1"\n[storage]\nurl = "mmap:///var/lib/{name}/{other}"\n')
    assert load_config(file, environment={}).storage.url == "mmap:///var/lib/a1/{other}"
    assert make_config(storage="mmap:///x/{name}", name="b2").storage.url == "mmap:///x/b2"
