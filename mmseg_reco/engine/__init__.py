# Licensed under the Apache License, Version 2.0.
from mmseg_reco.engine import hooks, runner

__all__ = ['hooks', 'runner']
