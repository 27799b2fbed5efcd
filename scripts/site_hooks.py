"""For mkdocs: the version of amlsched in the footer of each page."""

from typing import Any

from amlsched import __version__


def on_config(config: Any) -> Any:
    """Set the line in the footer."""
    config.copyright = f"amlsched {__version__}"
    return config
