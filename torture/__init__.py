"""Crash tests: a real server under load, killed at random moments, and its log compared with what was sent.

`python -m torture --kills 100` starts Loopledger with its embedded Postgres, sends unique deliveries until each got its
200, kills processes all the while, and then proves that every 200 is on record exactly as sent, that nothing else is,
and that every state is the fold of the log.
"""
