-- Begins every script. ARGV[1]: by Redis's clock in ms, when the caller gives up; 0: never. ARGV[2]: how far ahead of
-- Redis's clock the records live, in ms; only tests say other than 0.
-- A script that runs after its caller has given up, because Redis stood still, changes nothing.
local call, sub, pack, unpack_bytes = redis.call, string.sub, struct.pack, struct.unpack
local clock = call('TIME')
local real = clock[1] * 1000 + math.floor(clock[2] / 1000)
if ARGV[1] ~= '0' and real > tonumber(ARGV[1]) then
  return {real}
end
local ahead = tonumber(ARGV[2])
local now = real + ahead                                       -- ms
local now_us = clock[1] * 1000000 + clock[2] + ahead * 1000    -- µs

-- whole writes a large number without the exponent that Lua gives it. An argument of a call needs it not.
local function whole(n)
  return string.format('%.0f', n)
end

-- keep makes a key live at least until a time by Redis's clock. The likelier of 'NX', for a new key, and 'GT' comes
-- first.
local function keep(key, till, likely, otherwise)
  if call('PEXPIREAT', key, till, likely) == 0 then
    call('PEXPIREAT', key, till, otherwise)
  end
end

-- One script in sixteen or so sweeps what has expired out of a sorted set. Nobody sees it there.
local sweeps = clock[2] % 16 == 0

-- The parts of a name: the request, by the first half of its digest, and the seq.
local function request_of(name)
  return sub(name, 1, 8)
end
local function seq_of(name)
  return sub(name, 9)
end

-- The parts of a record: its expiry in µs, its owner, and the second half of its request's digest. No record: 0.
local function expiry_of(record)
  return record == '' and 0 or (unpack_bytes('>I8', record))
end
local function owner_of(record)
  return sub(record, 9, 24)
end
local function rest_of(record)
  return sub(record, 25, 32)
end

-- A member of the unread replies is the pair, 4 bytes, and the name.
local function pair_of(member)
  return sub(member, 1, 4)
end
local function name_of(member)
  return sub(member, 5)
end

-- The state of a seq is its expiry in µs, and once it was read the end of its grace in ms, else nil. An unread reply with
-- the seq that most have, 0, has no state.
local first_seq = string.char(0)
local function read_state(state)
  if #state == 8 then
    return (unpack_bytes('>I8', state))
  end
  return unpack_bytes('>I8I8', state)
end
