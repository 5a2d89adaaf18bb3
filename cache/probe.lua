-- Shows that Redis takes writes and lets this user do what the scripts do. It changes nothing: the key does not exist.
-- KEYS: probe
local key = KEYS[1]
call('SET', key, '', 'XX')
call('GET', key)
call('GETRANGE', key, 0, 0)
call('HGET', key, 'f')
call('HGETALL', key)
call('ZADD', key, 'XX', 0, 'm')
call('ZREM', key, 'm')
call('ZRANGE', key, 0, 0)
call('ZCOUNT', key, 0, 0)
call('ZREMRANGEBYSCORE', key, 0, 0)
call('PEXPIREAT', key, 1)
return {real, call('DEL', key)}
