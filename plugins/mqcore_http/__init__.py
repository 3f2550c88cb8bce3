"""Gateway ``http://``: ``/metrics`` for Prometheus, ``/health`` and ``/ready`` for supervisors, by h11 on Trio."""

from mqcore_http._gateway import HttpGateway

__all__ = ["HttpGateway"]
