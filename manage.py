#!/usr/bin/env python
"""Celeriac's command line: ``python manage.py --help``."""

from deploy.console.main import main

if __name__ == "__main__":
    main()
