"""What every stage runs on.

- Training: ``loop`` (the only one), ``run`` (what a stage hands to it), ``session`` (Accelerate),
  ``isolation`` (from what the process has set), ``optim``, ``gradients``, ``prefetch``, ``sharding``, ``randomness``,
  ``precision``; ``state`` and ``resume`` (going on), ``signals``, ``clock``.
- On disk: ``artifacts``, ``card`` (README.md), ``metrics_log``, ``folders`` (changed as a whole), ``locks``,
  ``model_paths``.
- Told: ``announcements`` (of a run), ``progress`` (bars).
- The machine: ``processes``, ``shared_work``, ``memory``, ``heap``, ``threads``.
"""
