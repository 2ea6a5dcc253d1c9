"""What runs outside the server: trainings on other processes and machines.

In: a connection string. Out: models in the database.
These modules alone know `psycopg`.
"""
