# Licensed under the Apache License, Version 2.0.
from .loops import TeacherStudentValLoop

__all__ = ['TeacherStudentValLoop']
