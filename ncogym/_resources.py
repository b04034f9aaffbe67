"""Where the files that travel with the package lie."""

from pathlib import Path

from ncogym.errors import NcogymError

_PACKAGE = Path(__file__).parent


def configs_folder() -> Path:
    """Return the folder of the published run configurations.

    A wheel carries them inside the package; in a checkout they lie at its top, beside the package.

    Raises:
        NcogymError: the installation is incomplete.
    """
    places = [_PACKAGE / "configs", _PACKAGE.parent / "configs"]
    for folder in places:
        if folder.is_dir():
            return folder
    raise NcogymError(f"configs: found at neither {places[0]} nor {places[1]}; install ncogym again")
