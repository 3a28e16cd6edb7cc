"""Recipes that make the models shipped under `models/`, from data to model card."""
