"""``bench``: quality over throughput, and speed.

- ``frontier`` (the stage): its ``points``, those ``kept`` of earlier calls, ``lines`` through them, ``tables`` and
  ``picture``.
- ``speed`` (the stage of ``--speed``) of sampling, its ``steps``, ``training`` of the others; ``timing``.
"""

from typing import Any

Report = dict[str, Any]  # a line of JSON: what was measured, and on what
