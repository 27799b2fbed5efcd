"""Configs: from a file or mappings to runs. Pure: no scheduler and no executor is known here."""
