"""Descriptions of objects as plain data, folders of weights and configuration, and atomic writes."""
