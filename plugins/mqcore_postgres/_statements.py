"""The SQL of the PostgreSQL coordinator, and what an error of it says about a write. Pure.

``rev`` numbers the writes to the table: the largest one is what a restored backup takes back (rule R14).
"""

from __future__ import annotations

from mqcore.ensembles import ServerRefusalError

__all__ = ["CHANNEL", "CREATE", "INSERT", "IS_STANDBY", "LISTEN", "NAMES", "NO_TABLE", "READ", "UPDATE", "refusal"]

CHANNEL = b"mqcore_coordinator"

CREATE = b"""\
create table if not exists mqcore_coordinator (
  name text collate "C" primary key,
  record bytea, record_id bytea,
  lease bytea, lease_id bytea,
  rev bigserial unique)"""

# With synchronous standbys a commit that writes something waits for them. A server that they have left for another
# cannot answer a read then, which it otherwise would, from what it had when they left.
READ = b"""\
select c.record, c.record_id, c.lease, c.lease_id,
  (select coalesce(max(rev), 0) from mqcore_coordinator),
  case when current_setting('synchronous_standby_names') <> ''
    then pg_logical_emit_message(true, 'mqcore_coordinator', '') end
from (select 1) as one left join mqcore_coordinator as c on c.name = $1"""

# Two statements, each one condition: an insert on a conflicting row would have to look whether there is a row first,
# and a row that is removed between the two looks would be written although its ids were expected.
INSERT = b"""\
with written as (
  insert into mqcore_coordinator (name, record, record_id, lease, lease_id)
  values ($1, $2, $3, $4, $5) on conflict (name) do nothing returning rev)
select rev, pg_notify('mqcore_coordinator', $1) from written"""

UPDATE = b"""\
with written as (
  update mqcore_coordinator set
    record = case when $3::bytea is null then record else $2 end, record_id = coalesce($3, record_id),
    lease = case when $5::bytea is null then lease else $4 end, lease_id = coalesce($5, lease_id),
    rev = nextval(pg_get_serial_sequence('mqcore_coordinator', 'rev'))
  where name = $1 and record_id is not distinct from $6 and lease_id is not distinct from $7 returning rev)
select rev, pg_notify('mqcore_coordinator', $1) from written"""

NAMES = b"select name from mqcore_coordinator where starts_with(name, $1) order by name"
LISTEN = b"listen mqcore_coordinator"
IS_STANDBY = b"select pg_is_in_recovery()"

NO_TABLE = "42P01"
_COMPLETION_UNKNOWN = "40003"
_READ_ONLY = "25006"
# Classes of errors that are raised before a commit only: data, integrity, state, log-in, catalog, rollback, syntax and
# access, resources, limits, prerequisites. Class 57 (an operator's intervention) is raised after a commit too.
_SURE = {"0A", "22", "23", "25", "28", "3D", "40", "42", "53", "54", "55"}
_EVERYWHERE = {"0A", "22", "23", "28", "3D", "42", "54"}


def refusal(state: str, text: str) -> ServerRefusalError:
    """Return what an error with the SQLSTATE ``state`` means for what was asked."""
    return ServerRefusalError(
        f"{text} (SQLSTATE {state})",
        sure=state[:2] in _SURE and state != _COMPLETION_UNKNOWN,
        elsewhere=state[:2] not in _EVERYWHERE or state == _READ_ONLY,
    )
