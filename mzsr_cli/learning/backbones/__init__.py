"""Backbones, a file each; learning.networks knows them by name."""
