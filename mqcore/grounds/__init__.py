"""What the ground below a storage (``mqcore.ports.DirectoryGround``) means for the promises of a build."""

from mqcore.grounds._judge import GroundVerdict, judge
from mqcore.grounds._look import look_below
from mqcore.grounds._text import ground_lines

__all__ = ["GroundVerdict", "ground_lines", "judge", "look_below"]
