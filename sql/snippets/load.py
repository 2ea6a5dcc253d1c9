if 'pyml @PYML_VERSION@' not in GD:
    import sys; sys.path.insert(0, '@PYML_SITE@')
    try: from pyml.entry import enter
    except (ImportError, MemoryError) as error: plpy.error(f'pyml cannot be loaded: {error!r}', sqlstate='ML006', hint='SELECT * FROM ml_doctor();')
    GD['pyml @PYML_VERSION@'] = enter('@PYML_VERSION@', '@PYML_SITE@')
