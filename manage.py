#!/usr/bin/env python
"""Celeriac's command line: ``python manage.py --help``."""

from deploy.console import interrupts

if __name__ == "__main__":
    interrupts.leave_at_once()
    from deploy.console.main import main  # it takes most of a second, in which Ctrl-C may come

    main()
