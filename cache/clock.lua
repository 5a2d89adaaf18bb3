-- Begins every script. ARGV[1]: by Redis's clock in ms, when the caller gives up; 0: never. ARGV[2]: how far ahead of
-- Redis's clock the records live, in ms; only tests say other than 0.
-- A script that runs after its caller has given up, because Redis stood still, changes nothing.
local call = redis.call
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
