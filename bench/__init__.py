"""Measurements. A figure is only good beside another figure of the same run on the same machine."""
