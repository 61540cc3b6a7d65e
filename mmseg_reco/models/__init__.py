# Licensed under the Apache License, Version 2.0.
from .heads import *  # noqa: F401,F403
from .losses import *  # noqa: F401,F403
from .preprocess import *  # noqa: F401,F403
from .samplers import *  # noqa: F401,F403
from .segmentors import *  # noqa: F401,F403
