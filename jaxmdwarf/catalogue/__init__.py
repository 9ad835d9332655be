"""From fitted stars to the final table: columns, units, cuts, total errors."""
