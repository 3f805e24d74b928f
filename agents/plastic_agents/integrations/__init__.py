"""Adapters that run a recurrent core in another library: one module a library, which alone imports it."""
