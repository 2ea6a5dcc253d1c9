"""What install.py does, a module a concern.

In come a command line and, for real servers, a connection string; out come a private
server, or the extension in a database. Standard library only, any Python from 3.9.
"""
