"""What runs in a PostgreSQL backend: the functions that SQL calls.

In: arguments of SQL functions. Out: documents and rows.
Of these modules `backend` alone knows `plpy`.
"""
