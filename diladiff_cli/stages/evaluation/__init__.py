"""``eval``: figures of samples and of artifacts.

- ``files`` (the stage) takes all targets.
- Of samples: ``samples``, with ``sets`` (read), ``measure`` (drawn), ``reference_text`` beside them, ``scoring``.
- Of artifacts: ``artifact``, with ``figures``.
"""
