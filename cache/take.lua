-- Takes replies of one mailbox from one device: unread ones, oldest first, then those in their grace.
-- KEYS: live, unread; then the request of each id asked for, or none for whatever is unread
-- ARGV[3]: prefix of request keys, ARGV[4]: prefix of reply keys,
-- ARGV[5]: grace in ms, ARGV[6]: most replies without ids, ARGV[7]: most bytes
-- Returns {expiry, record, …}, the places of the ids that have a reply which was read and whose grace is over, and how
-- many of the records had been read before.
local live, unread = KEYS[1], KEYS[2]
local requests, replies = ARGV[3], ARGV[4]
local grace, most, room = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])

local fresh, again, read = {}, {}, {}

-- find_oldest collects unread replies whatever their request. A name is the request's digest, ':' and seq.
local function find_oldest()
  local found = call('ZRANGE', unread, '(' .. whole(now_us), '+inf', 'BYSCORE', 'LIMIT', 0, most, 'WITHSCORES')
  for i = 1, #found, 2 do
    local digest, seq = string.match(found[i], '^(.-):(.*)$')
    fresh[#fresh + 1] = {name = found[i], request = requests .. digest, seq = seq, expiry = tonumber(found[i + 1])}
  end
end

-- find_request collects the replies of one request.
local function find_request(place, request)
  local digest = string.sub(request, #requests + 1)
  local states = call('HGETALL', request)
  for i = 1, #states, 2 do
    local expiry, till = string.match(states[i + 1], '^(%d+) ?(%d*)$')
    local found = {name = digest .. ':' .. states[i], request = request, seq = states[i], expiry = tonumber(expiry)}
    if found.expiry > now_us then
      if till == '' then
        fresh[#fresh + 1] = found
      elseif tonumber(till) > now then
        again[#again + 1] = found
      elseif read[#read] ~= place then
        read[#read + 1] = place
      end
    end
  end
end

local function older(a, b)
  return a.expiry < b.expiry
end

local taken = {}

-- take adds replies until the room is used up, and reports whether there may be more room.
local function take(found, on_first_read)
  table.sort(found, older)
  for _, r in ipairs(found) do
    local record = call('GET', replies .. r.name)
    if record then
      room = room - #record
      if room < 0 and #taken > 0 then
        return false
      end
      taken[#taken + 1] = r.expiry
      taken[#taken + 1] = record
      if on_first_read then
        on_first_read(r)
      end
    end
  end
  return true
end

-- mark starts the grace of a reply; without one its body goes at once.
local function mark(r)
  call('ZREM', unread, r.name)
  call('HSET', r.request, r.seq, whole(r.expiry) .. ' ' .. whole(now + grace))
  if grace == 0 then
    call('DEL', replies .. r.name)
    call('ZREM', live, r.name)
  else
    local till = math.min(now + grace, math.floor(r.expiry / 1000))
    call('PEXPIREAT', replies .. r.name, till - ahead)
    call('ZADD', live, till, r.name)
  end
end

if #KEYS == 2 then
  find_oldest()
else
  for i = 3, #KEYS do
    find_request(i - 3, KEYS[i])
  end
end
local more = take(fresh, mark)
local first_reads = #taken / 2
if more then
  take(again)
end
return {real, taken, read, #taken / 2 - first_reads}
