-- Stores replies of one mailbox, all or none: Redis refuses the whole script where its memory is full.
-- KEYS: live; then for each reply: unread, request, reply
-- ARGV[3]: TTL in ms; then for each reply: name, seq, record
-- Returns for each reply: 1 stored, 2 duplicate, 3 read.
local ttl = tonumber(ARGV[3])
local live = KEYS[1]

-- known tells what is there of a reply: 2, 3, or nil for nothing.
local function known(request, seq, reply)
  local state = call('HGET', request, seq)
  if not state then
    return nil
  end
  local expiry, grace = string.match(state, '^(%d+) ?(%d*)$')
  if tonumber(expiry) <= now_us then
    return nil
  elseif grace == '' then
    return call('EXISTS', reply) == 1 and 2 or nil
  end
  return tonumber(grace) > now and 2 or 3
end

-- keep makes a key live at least until a time by Redis's clock. The likelier of 'NX', for a new key, and 'GT' comes
-- first.
local function keep(key, till, likely, otherwise)
  if call('PEXPIREAT', key, till, likely) == 0 then
    call('PEXPIREAT', key, till, otherwise)
  end
end

-- One script in sixteen or so sweeps what has expired out of the sorted sets. Nobody sees it there.
local sweeps = clock[2] % 16 == 0
if sweeps then
  call('ZREMRANGEBYSCORE', live, '-inf', now)
end

local results = {}
for i = 1, (#KEYS - 1) / 3 do
  local unread, request, reply = KEYS[3 * i - 1], KEYS[3 * i], KEYS[3 * i + 1]
  local name, seq, record = ARGV[3 * i + 1], ARGV[3 * i + 2], ARGV[3 * i + 3]
  if sweeps then
    call('ZREMRANGEBYSCORE', unread, '-inf', now_us)
  end
  results[i] = known(request, seq, reply)
  if not results[i] then
    results[i] = 1
    local expiry = now_us + i + ttl * 1000    -- the i keeps replies of one script in order
    local expiry_ms = math.floor(expiry / 1000)
    local till = expiry_ms - ahead
    call('SET', reply, record, 'PXAT', till)
    call('HSET', request, seq, expiry)
    call('ZADD', unread, expiry, name)
    call('ZADD', live, expiry_ms, name)
    keep(request, till, 'NX', 'GT')
    keep(unread, till, 'GT', 'NX')
    keep(live, till, 'GT', 'NX')
  end
end
return {real, results}
