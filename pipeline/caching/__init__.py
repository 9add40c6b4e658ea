"""What was found and answered before: in the process, in Redis, in Postgres."""
