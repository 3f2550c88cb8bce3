"""The SQL of the PostgreSQL offset store. Pure."""

from __future__ import annotations

__all__ = ["CREATE", "DELETE_GROUP", "DELETE_TOPIC", "GROUPS", "LOAD", "PUT", "SCHEMA_VERSION", "STAMP"]

SCHEMA_VERSION = 1
"""Stands in every row of a group: tables that another version wrote are told apart by it."""

CREATE = (
    b"""\
create table if not exists mqcore_offset_cursors (
  group_name text collate "C", topic text collate "C", partition bigint,
  next_offset bigint not null, epoch bigint not null,
  primary key (group_name, topic, partition))""",
    b"""\
create table if not exists mqcore_offset_groups (
  name text collate "C" primary key,
  generation bigint not null, number bigint not null, schema_version bigint not null)""",
)

# One statement sees one moment. A commit with synchronous standbys waits for them, so that a server which they have
# left for another does not answer from what it had when they left.
LOAD = b"""\
select g.generation, g.number, g.schema_version, c.topic, c.partition, c.next_offset, c.epoch,
  case when current_setting('synchronous_standby_names') <> ''
    then pg_logical_emit_message(true, 'mqcore_offsets', '') end
from mqcore_offset_groups as g left join mqcore_offset_cursors as c on c.group_name = g.name
where g.name = $1"""

STAMP = b"select generation, number, schema_version from mqcore_offset_groups where name = $1"

# The row of the group is written first and locks the others out; its stamp is compared with what is there then, not
# with what the statement saw when it began.
_FENCE = b"""\
with fence as (
  insert into mqcore_offset_groups as g (name, generation, number, schema_version)
  values ($1, $2::bigint, $3::bigint, $4::bigint)
  on conflict (name) do update set generation = excluded.generation, number = excluded.number
  where (g.generation, g.number) < (excluded.generation, excluded.number)
    and g.schema_version = excluded.schema_version
  returning 1)
"""

PUT = (
    _FENCE
    + b"""\
, put as (
  insert into mqcore_offset_cursors as c (group_name, topic, partition, next_offset, epoch)
  select $1, t.topic, t.partition, t.next_offset, t.epoch
  from fence, json_to_recordset($5::json)
    as t (topic text, partition bigint, next_offset bigint, epoch bigint)
  on conflict (group_name, topic, partition) do update
  set next_offset = excluded.next_offset, epoch = excluded.epoch)
select 1 from fence"""
)

DELETE_TOPIC = (
    _FENCE
    + b"""\
, gone as (delete from mqcore_offset_cursors using fence where group_name = $1 and topic = $5)
select 1 from fence"""
)

DELETE_GROUP = b"""\
with gone as (
  delete from mqcore_offset_groups where name = $1 and (generation, number) < ($2::bigint, $3::bigint)
    and schema_version = $4::bigint
  returning 1),
cursors as (delete from mqcore_offset_cursors using gone where group_name = $1)
select 1 from gone"""

GROUPS = b"select name from mqcore_offset_groups order by name"
