"""What every component shares: the image a task runs in unless the pipeline says otherwise."""

BASE_IMAGE = "python:3.11-slim"
