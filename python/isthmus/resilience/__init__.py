"""What keeps a failing call from becoming a failing runtime: retries, breakers, bulkheads."""
