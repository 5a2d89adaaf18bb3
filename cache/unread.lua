-- Tells what is unread of one mailbox at one device.
-- KEYS: unread
-- ARGV[3]: prefix of reply keys, ARGV[4]: bytes of a record's head
-- Returns the head of each record.
local heads = {}
for _, name in ipairs(call('ZRANGE', KEYS[1], '(' .. whole(now_us), '+inf', 'BYSCORE')) do
  local head = call('GETRANGE', ARGV[3] .. name, 0, ARGV[4] - 1)
  if head ~= '' then
    heads[#heads + 1] = head
  end
end
return {real, heads}
