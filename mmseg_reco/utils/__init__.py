# Licensed under the Apache License, Version 2.0.
from .arguments import (
    check_count,
    check_loss,
    check_not_negative,
    check_positive,
    check_probability,
    check_range,
)
from .config import as_list, type_name
from .norm import is_batch_norm
from .wrapper import unwrap

__all__ = [
    'as_list', 'check_count', 'check_loss', 'check_not_negative', 'check_positive',
    'check_probability', 'check_range', 'is_batch_norm', 'type_name', 'unwrap'
]
