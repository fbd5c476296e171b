"""Tables of records: values, formatting, queries."""
