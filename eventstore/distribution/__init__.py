"""The log and the states spread over the machines of a Citus cluster."""
