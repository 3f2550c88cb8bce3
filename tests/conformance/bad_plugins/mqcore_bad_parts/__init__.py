"""A storage and a transport of a third party that work, until an option says how they are to misbehave.

``bad:///PATH?does=hang&where=append``. ``does`` is a fault of ``_faults`` at the call ``where``, or a lie.
"""

from mqcore_bad_parts._storage import BadStorage
from mqcore_bad_parts._transport import BadTransport

__all__ = ["BadStorage", "BadTransport"]
