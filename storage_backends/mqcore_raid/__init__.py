"""``raid:///d1,/d2?level=1``: an array of member directories, each with a whole storage of its own.

How it works, in the order of the files that do it:

- ``_shape``: directories of the URL in mirror groups. ``_record``: what each member keeps of the array, and
  ``_directory`` where. ``_assembly``: what several records say together; ``_opening``: reads them, opens, records.
  ``_places``: whether the members stand where they stood, ``_looking`` whether they still do.
- ``_roster``: who belongs now. A member that fails leaves at once, and before the next acknowledgement every other one
  has that on its disk.
- ``_background``: work on members side by side; one that hangs must not hang its callers.
- ``_group`` and ``_log``: a mirror group and its logs, the same bytes on each member. ``_equal``: makes copies equal
  after a stop that was not clean.
- ``_stripes`` and ``_striped``: one log on several groups. ``_sums`` with their files, ``_mending``, ``_scrub``: which
  copy is right.
- ``_rebuild``, ``_repairs``: what an operator can have done while the array serves. ``_backend``: the contract.

Everything touches the outside through ``mqcore.ports`` and the members' own storages, which are reached by URL only.
Nothing here knows what the bytes mean.
"""

from mqcore_raid._backend import RaidStorage

__all__ = ["RaidStorage"]
