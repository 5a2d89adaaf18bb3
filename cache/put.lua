-- Stores replies of one mailbox, all or none: Redis refuses the whole script where its memory is full.
-- KEYS: for each reply: unread, seqs, reply
-- ARGV[3]: TTL in ms; then for each reply: member of unread, record without its expiry
-- Returns for each reply: 1 stored, 2 duplicate, 3 read; 0: another reply has its name, so nothing was stored.
local ttl = tonumber(ARGV[3])

-- known tells what is there of a reply: 0, 2, 3, or nil for nothing.
local function known(seqs, seq, reply, record)
  local state = call('HGET', seqs, seq)
  if state then
    local expiry, till = read_state(state)
    if till and expiry > now_us then
      return till > now and 2 or 3
    end
  end
  local head = call('GETRANGE', reply, 0, 31)
  if expiry_of(head) <= now_us then
    return nil
  end
  return sub(head, 9) == sub(record, 1, 24) and 2 or 0
end

local results = {}
for i = 1, #KEYS / 3 do
  local unread, seqs, reply = KEYS[3 * i - 2], KEYS[3 * i - 1], KEYS[3 * i]
  local member, record = ARGV[2 * i + 2], ARGV[2 * i + 3]
  if sweeps then
    call('ZREMRANGEBYSCORE', unread, '-inf', now_us)
  end
  local seq = seq_of(name_of(member))
  results[i] = known(seqs, seq, reply, record)
  if not results[i] then
    results[i] = 1
    local expiry = now_us + i + ttl * 1000    -- the i keeps replies of one script in order
    local till = math.floor(expiry / 1000) - ahead
    call('SET', reply, pack('>I8', expiry) .. record, 'PXAT', till)
    call('ZADD', unread, expiry, member)
    keep(unread, till, 'GT', 'NX')
    if seq ~= first_seq then
      call('HSET', seqs, seq, pack('>I8', expiry))
      keep(seqs, till, 'GT', 'NX')
    end
  end
end
return {real, results}
