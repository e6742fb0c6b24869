"""The version of this code; an editable installation's metadata can be older."""

VERSION = "0.2.0"
