# Licensed under the Apache License, Version 2.0.
"""Reading of configs that may be written in several ways."""
from collections.abc import Callable, Sequence


def type_name(config: dict | Callable) -> str:
    """Class name of what a config builds (``type`` is a name, a scoped name or a class), or of an
    object that is built already."""
    kind = config['type'] if isinstance(config, dict) else type(config)
    return kind.split('.')[-1] if isinstance(kind, str) else kind.__name__


def as_list(configs: dict | Sequence[dict]) -> Sequence[dict]:
    """Several configs, or one without a list around it, as mmseg's ``loss_decode`` may be given."""
    return [configs] if isinstance(configs, dict) else configs
