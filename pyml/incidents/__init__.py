"""Findings -> incidents and events: one trouble, told once.

In: findings of one device, and its incidents so far. Out: the incidents as they are now, and what
happened to them. Plain functions; they know neither SQL nor `plpy`.
"""
