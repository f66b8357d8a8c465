"""The commands of ``numbaconv``, one file for each kind of job; they use the libraries of the extra ``cli``."""
