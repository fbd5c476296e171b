"""Result schema, environment, result cache and statistics."""
