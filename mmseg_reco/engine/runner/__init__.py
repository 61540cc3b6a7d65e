# Licensed under the Apache License, Version 2.0.
from .loops import ResumableTrainLoop, TeacherStudentValLoop

__all__ = ['ResumableTrainLoop', 'TeacherStudentValLoop']
