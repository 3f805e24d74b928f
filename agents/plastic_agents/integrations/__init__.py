"""Recurrent networks of this project, or your own, inside other libraries; a file for each, which imports it."""
