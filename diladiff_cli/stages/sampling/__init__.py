"""``sample``: texts of a base, a prior or a student.

``sample`` (the stage) draws by ``sampler`` (the networks) as ``settings`` say, around ``prompts``; ``graphs`` are
CUDA's, ``trace`` shows how one text is decoded.
"""
