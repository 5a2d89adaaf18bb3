-- Stores replies of one mailbox, all or none: Redis refuses the whole script where its memory is full.
-- KEYS: live; then for each reply: unread, request, reply
-- ARGV[3]: TTL in ms; then for each reply: name, seq, record
-- Returns for each reply: 1 stored, 2 duplicate, 3 read.
local ttl = tonumber(ARGV[3])
local live = KEYS[1]

-- known tells what is there of a reply: 2, 3, or nil for nothing.
local function known(request, seq, reply)
  local state = redis.call('HGET', request, seq)
  if not state then
    return nil
  end
  local expiry, grace = string.match(state, '^(%d+) ?(%d*)$')
  if tonumber(expiry) <= now_us then
    return nil
  elseif grace == '' then
    return redis.call('EXISTS', reply) == 1 and 2 or nil
  end
  return tonumber(grace) > now and 2 or 3
end

local results = {}
local swept
redis.call('ZREMRANGEBYSCORE', live, '-inf', whole(now))
for i = 1, (#KEYS - 1) / 3 do
  local unread, request, reply = KEYS[3 * i - 1], KEYS[3 * i], KEYS[3 * i + 1]
  local name, seq, record = ARGV[3 * i + 1], ARGV[3 * i + 2], ARGV[3 * i + 3]
  if unread ~= swept then
    redis.call('ZREMRANGEBYSCORE', unread, '-inf', whole(now_us))
    swept = unread
  end
  results[i] = known(request, seq, reply)
  if not results[i] then
    results[i] = 1
    local expiry = now_us + i + ttl * 1000    -- the i keeps replies of one script in order
    local expiry_ms = math.floor(expiry / 1000)
    redis.call('SET', reply, record, 'PXAT', whole(expiry_ms - ahead))
    redis.call('HSET', request, seq, whole(expiry))
    redis.call('ZADD', unread, whole(expiry), name)
    redis.call('ZADD', live, whole(expiry_ms), name)
    keep(request, expiry_ms)
    keep(unread, expiry_ms)
    keep(live, expiry_ms)
  end
end
return {real, results}
