"""The pipeline as Celery tasks: canvases, workers, recovery, and the client that submits and follows."""
