#!/usr/bin/env python
"""Celeriac's command line: ``python manage.py --help``."""

if __name__ == "__main__":
    try:
        from deploy.console import interrupts

        interrupts.leave_at_once()
    except KeyboardInterrupt:  # before there was anything that could leave without a word
        raise SystemExit(130) from None
    from deploy.console.main import main  # it takes most of a second, in which Ctrl-C may come

    main()
