"""The catalogue: one file a family. Nothing else lives here; `registry` finds what is added."""
