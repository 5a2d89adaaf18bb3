-- Counts the replies of one tag that have not expired.
-- KEYS: live
return {real, call('ZCOUNT', KEYS[1], '(' .. whole(now), '+inf')}
