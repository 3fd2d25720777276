"""Trainings of page-layer models on a cluster, as jobs of Rodan (docs/rodan.md).

In Rodan this folder lies in ``rodan/jobs``, and its jobs are registered when it is imported.
Anywhere else it is a library that asks a cluster for a training and reads the answer.
"""

__version__ = "0.1.0"

if __name__.startswith("rodan.jobs."):
    from rodan.jobs import module_loader

    module_loader(__name__ + ".jobs")
