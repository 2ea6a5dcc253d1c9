-- Days ahead: the outlook of a signal, and when it reaches a limit.

INSERT INTO ml_setting (name, kind, minimum, maximum, default_value, value, meaning)
VALUES
    ('outlook_days', 'integer', 3, 90, '28', '28', 'Days of history that an outlook is made of.');
