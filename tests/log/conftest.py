"""The tests of the log share one module of helpers, ``shelf_storage``, found beside them."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
