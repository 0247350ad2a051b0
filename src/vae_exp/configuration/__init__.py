"""The typed config: schema, validation, instantiation, and stored configs read as data."""
