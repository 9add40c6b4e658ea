#!/bin/sh
# entrypoint.sh KIND          run that line of the Procfile: ask, ingest, parse, control, beat, flower
# entrypoint.sh manage …      run manage.py
set -eu
cd "$(dirname "$0")/../.."
if [ "${1:-}" = manage ]; then
    shift
    exec python manage.py "$@"
fi
line=$(sed -n "s/^${1:-}: //p" Procfile)
if [ -z "$line" ]; then
    echo "'${1:-}' is no line of the Procfile." >&2
    exit 2
fi
exec /bin/sh -c "exec $line"
