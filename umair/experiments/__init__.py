"""Rankers compared: several of them, several seeds, one set of rows. A YAML file is an experiment."""
