"""The tests of the raid storage share one module of helpers, ``array_parts``, found beside them."""

import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [_HERE, os.path.join(os.path.dirname(_HERE), "broker")]
