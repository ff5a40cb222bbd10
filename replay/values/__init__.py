"""Values: what is done about the unknown, outliers and scale; fitted on training rows, the same in serving."""
