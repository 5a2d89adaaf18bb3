-- Shows that Redis takes writes. It writes nothing: the key does not exist.
-- KEYS: probe
return {real, call('DEL', KEYS[1])}
