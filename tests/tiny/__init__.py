"""The one place that builds what tests run on: tiny models and their folders, pictures, tars, official files.

pyproject.toml puts tests/ on pytest's path, so that every test and conftest.py imports it as `tiny`.
"""
