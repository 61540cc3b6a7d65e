# Licensed under the Apache License, Version 2.0.
from .hooks import *  # noqa: F401,F403
from .optim_wrapper import CPUAmpOptimWrapper  # noqa: F401
from .optim_wrapper_constructor import StudentOptimWrapperConstructor  # noqa: F401
from .runner import *  # noqa: F401,F403
