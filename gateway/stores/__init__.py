"""Adapters. Each translates the errors of its driver, so that nothing above sees one."""
