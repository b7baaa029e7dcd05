"""The write side: validate, merge, admit, publish, answer 202. Never touches Postgres."""
