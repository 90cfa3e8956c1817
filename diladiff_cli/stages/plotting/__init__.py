"""``plot``: pictures of what artifacts and reports hold.

``plot`` (the stage) draws what ``sources`` find, and ``training`` curves; ``pictures`` (one look for all, those of
``bench`` as well) with ``point_labels``.
"""
