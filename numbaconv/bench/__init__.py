"""numbaconv against its peers, in one process and one run: contenders, suites, reports."""
