"""Puts the profiles where `snakemake --profile NAME` finds them, never over a user's own.

Snakemake 9 looks for a bare name in the working folder, then in the user's and the site's configuration folder.
"""

from __future__ import annotations

import filecmp
import shutil
from pathlib import Path

from sightline.errors import InputError

IMPLICIT = "default"  # loaded by Snakemake from the workflow itself


def user_folder() -> Path:
    """Returns the user's configuration folder of Snakemake, as Snakemake finds it itself."""
    from platformdirs import user_config_path

    return user_config_path("snakemake", "snakemake")


def _same(ours: Path, theirs: Path) -> bool:
    names = sorted(path.name for path in ours.iterdir())
    if not theirs.is_dir() or sorted(path.name for path in theirs.iterdir()) != names:
        return False
    return not any(filecmp.cmpfiles(ours, theirs, names, shallow=False)[1:])


def install_profiles(source: str | Path, target: str | Path | None = None) -> list[str]:
    """Copies each profile that `target` lacks and returns one line per profile.

    Copies are the user's to edit, so a profile that is there already is left alone, whoever wrote it.

    Args:
        source: Folder of profiles, one folder each.
        target: Snakemake's configuration folder; None means the user's.

    Raises:
        InputError: There are no profiles in `source`, or `target` cannot be written.
    """
    folder = Path(target) if target is not None else user_folder()
    ours = [path.parent for path in sorted(Path(source).glob("*/config.yaml")) if path.parent.name != IMPLICIT]
    if not ours:
        raise InputError("no profiles here", file=source, mend="run this in the folder of the checkout")
    lines = []
    for profile in ours:
        theirs = folder / profile.name
        if theirs.exists() or theirs.is_symlink():
            state = "there" if _same(profile, theirs) else f"kept as it is; the delivered one: {profile}"
        else:
            try:
                shutil.copytree(profile, theirs)
            except OSError as error:
                raise InputError(
                    f"cannot be written ({error.strerror or error})",
                    file=theirs,
                    mend=f"make {folder} writable, or name the profile by its path: --profile {profile}",
                ) from None
            state = "copied"
        lines.append(f"profile {profile.name}: {theirs} ({state})")
    return lines
