"""The bytes that a compiled step holds, read off the code that Inductor generates for it."""
