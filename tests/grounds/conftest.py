"""Modules of this folder share the trees of ``test_probe``, found beside them."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
