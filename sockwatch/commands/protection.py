"""The web configuration file, for the commands that read it; its libraries only where used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sockwatch.config import ConfigError, Layer, Origin, Problem

if TYPE_CHECKING:
    from sockwatch.config import Config
    from sockwatch.web.protection import Protection

_OPTIONAL: Final = {"bcrypt": "bcrypt", "yaml": "PyYAML"}


def protection_of(config: Config) -> Protection | None:
    """What `web.config_file` asks for; `None` if there is none.

    Raises:
        ConfigError: it is not valid, or cannot be read without libraries that are missing.
        CertificateError: what it names cannot be used.
    """
    path = config.web.config_file
    if not path:
        return None
    try:
        from sockwatch.web.protection import Protection
    except ModuleNotFoundError as error:
        library = _OPTIONAL.get(error.name or "")
        if library is None:
            raise
        what = f"reading it takes {library}, which is missing; install sockwatch[web]"
        raise ConfigError([Problem(Origin(Layer.FILE, path), what)]) from error
    return Protection(path)
