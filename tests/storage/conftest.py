"""The tests of the mmap storage share one module of helpers, ``mmap_parts``, found beside them."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
