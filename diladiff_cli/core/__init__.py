"""The mathematics, as functions of tensors; nothing here knows of networks, files or commands.

- Tokens: ``masking`` (the forward kernel), ``unmask`` (reverse steps), ``draw`` (categorical draws), ``static`` (the
  same in steps of one shape, for CUDA graphs), ``textbook`` (the usual sampler, to compare with).
- Latents: ``gaussian`` (noise schedule), ``ode`` (from noise to latents), ``augment`` (what makes them learnable).
- Training: ``objectives``, ``times`` (laws and grids of times).
- Small: ``splitmix`` (random bits), ``hashing``, ``autocast`` (products in bf16).
"""
