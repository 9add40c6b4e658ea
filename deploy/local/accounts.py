"""Running Postgres for root: it refuses to be root, so it needs an account and files that account can reach.

Nobody else's permissions are widened for that. What the account can't reach (a project below ``/root``,
a virtual environment with mode 0700) is kept in ``/var/lib/celeriac`` instead.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

from pipeline.errors import BadSettings

ACCOUNT = "pgserver"
SYSTEM_FOLDER = Path("/var/lib/celeriac")

Account = tuple[int, int]
"""(uid, gid)."""


def server_account() -> Account | None:
    """The account Postgres runs as: the caller's own (None), or for root ``pgserver``, made where it is missing."""
    if os.geteuid() != 0:
        return None
    entry = _entry() or _create()
    return entry.pw_uid, entry.pw_gid


def reachable(path: Path, account: Account, *, read: bool = True) -> bool:
    """Whether the account may enter ``path`` and every folder above it, and (``read``) read it."""
    return _allows(path, account, read=read) and all(_allows(parent, account, read=False) for parent in path.parents)


def system_folder(name: str) -> Path:
    """A new folder in :data:`SYSTEM_FOLDER` whose name starts with ``name``."""
    SYSTEM_FOLDER.mkdir(mode=0o755, parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=SYSTEM_FOLDER))


def reachable_copy(package: Path, libraries: Path, name: str) -> Path:
    """A copy of two sibling folders that every account can run programs from; returns that of ``package``.

    Their places relative to each other stay the same, because the programs look for libraries there.
    """
    target = SYSTEM_FOLDER / name
    if not target.exists():
        draft = system_folder(name)
        for folder in (package, libraries):
            relative = folder.relative_to(libraries.parent)
            shutil.copytree(folder, draft / relative, ignore=shutil.ignore_patterns("include", "*.a", "__pycache__"))
        subprocess.run(["chmod", "-R", "a+rX", str(draft)], check=True, timeout=60)
        draft.rename(target)
    return target / package.relative_to(libraries.parent)


def _entry() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(ACCOUNT)
    except KeyError:
        return None


def _create() -> pwd.struct_passwd:
    command = ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", ACCOUNT]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        raise BadSettings(
            f"Postgres can't run as root, and the account {ACCOUNT} could not be created.",
            "Run it as an ordinary user, or set DATABASE_URL to a Postgres of your own.",
        ) from None
    return pwd.getpwnam(ACCOUNT)


def _allows(path: Path, account: Account, *, read: bool) -> bool:
    status = path.stat()
    uid, gid = account
    shift = 6 if status.st_uid == uid else 3 if status.st_gid == gid else 0
    wanted = (stat.S_IXOTH | stat.S_IROTH if read else stat.S_IXOTH) << shift
    return status.st_mode & wanted == wanted
