"""What every stage runs on.

- Training: ``loop`` (the only one), ``run`` (what a stage hands to it), ``session`` (Accelerate),
  ``surroundings`` (of the process), ``optim``, ``gradients``, ``prefetch``, ``sharding``, ``randomness``,
  ``precision``; ``state`` and ``resume`` (going on), ``signals``.
- On disk: ``artifacts``, ``card`` (README.md), ``metrics_log``, ``folders`` (changed as a whole), ``locks``,
  ``model_paths``.
- Told: ``announcements`` (of a run), ``progress`` (bars).
- The machine: ``processes``, ``helpers`` (of the main process), ``memory``, ``heap``, ``threads``.
"""
