"""A stand-in for Rodan, as far as a job meets it: registration, inputs, outputs, states, errors.

Real here: Celery with its workers, Django's models and transactions (on SQLite), the temporary
paths of outputs, the rules that a job class must keep. Not here: HTTP, users, workflows of several
jobs, thumbnails, resource types, PostgreSQL.
"""
