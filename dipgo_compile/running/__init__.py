"""What a loaded bundle runs with besides the interpreter: shapes, places of values, hosts of the calls."""
