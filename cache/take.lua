-- Takes replies of one mailbox from one device: unread ones, oldest first, then those in their grace.
-- KEYS: unread, grace; then the seqs of each id asked for, or none for whatever is unread
-- ARGV[3]: prefix of reply keys, ARGV[4]: prefix of seqs keys, ARGV[5]: pair, ARGV[6]: owner,
-- ARGV[7]: grace in ms, ARGV[8]: most replies without ids, ARGV[9]: most bytes
-- Returns the records, the places of the ids that have a reply which was read and whose grace is over, how many of the
-- records had been read before, and 1 where there are more than fit.
local unread, in_grace = KEYS[1], KEYS[2]
local replies, all_seqs, pair, owner = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local grace, most, room = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])

local fresh, again, read = {}, {}, {}

-- find_oldest collects unread replies whatever their request, in order.
local function find_oldest()
  for _, member in ipairs(call('ZRANGE', unread, '(' .. whole(now_us), '+inf', 'BYSCORE')) do
    if pair_of(member) == pair then
      fresh[#fresh + 1] = {name = name_of(member)}
      if #fresh == most then
        return
      end
    end
  end
end

-- find_request collects the replies of one request.
local function find_request(place, request, rest)
  local first_listed = false
  local function add(list, seq, expiry)
    list[#list + 1] = {name = request .. seq, rest = rest, expiry = expiry}
  end
  local seqs = call('HGETALL', all_seqs .. request .. rest)
  for i = 1, #seqs, 2 do
    local seq, expiry, till = seqs[i], read_state(seqs[i + 1])
    if expiry > now_us then
      first_listed = first_listed or seq == first_seq
      if not till then
        add(fresh, seq, expiry)
      elseif till > now then
        add(again, seq, expiry)
      elseif read[#read] ~= place then
        read[#read + 1] = place
      end
    end
  end
  if not first_listed then
    local expiry = expiry_of(call('GETRANGE', replies .. request .. first_seq, 0, 7))
    if expiry > now_us then
      add(fresh, first_seq, expiry)
    end
  end
end

local function older(a, b)
  return a.expiry < b.expiry
end

local taken = {}

-- take adds replies until the room is used up, and reports whether there may be more room. A record of another owner or
-- request has the same name by accident.
local function take(found, on_first_read)
  for _, r in ipairs(found) do
    local record = call('GET', replies .. r.name)
    if record and owner_of(record) == owner and (not r.rest or rest_of(record) == r.rest) then
      room = room - #record
      if room < 0 and #taken > 0 then
        return false
      end
      taken[#taken + 1] = record
      if on_first_read then
        on_first_read(r.name, record)
      end
    end
  end
  return true
end

-- mark starts the grace of a reply; without one its body goes at once.
local function mark(name, record)
  local expiry = expiry_of(record)
  local expiry_ms = math.floor(expiry / 1000)
  local seqs = all_seqs .. request_of(name) .. rest_of(record)
  call('ZREM', unread, pair .. name)
  call('HSET', seqs, seq_of(name), pack('>I8I8', expiry, now + grace))
  keep(seqs, expiry_ms - ahead, 'NX', 'GT')
  if grace == 0 then
    call('DEL', replies .. name)
  else
    local till = math.min(now + grace, expiry_ms)
    call('PEXPIREAT', replies .. name, till - ahead)
    call('ZADD', in_grace, till, name)
    keep(in_grace, till - ahead, 'GT', 'NX')
  end
end

if #KEYS == 2 then
  find_oldest()
else
  for i = 3, #KEYS do
    local digest = sub(KEYS[i], #all_seqs + 1)
    find_request(i - 3, sub(digest, 1, 8), sub(digest, 9))
  end
  table.sort(fresh, older)
  table.sort(again, older)
end
if sweeps then
  call('ZREMRANGEBYSCORE', in_grace, '-inf', now)
end
local all = take(fresh, mark)
local first_reads = #taken
all = all and take(again)
return {real, taken, read, #taken - first_reads, all and 0 or 1}
