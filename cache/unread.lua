-- Tells what is unread of one mailbox at one device.
-- KEYS: unread
-- ARGV[3]: prefix of reply keys, ARGV[4]: pair, ARGV[5]: owner, ARGV[6]: bytes of a record's head
-- Returns the head of each record.
local heads = {}
for _, member in ipairs(call('ZRANGE', KEYS[1], '(' .. whole(now_us), '+inf', 'BYSCORE')) do
  if pair_of(member) == ARGV[4] then
    local head = call('GETRANGE', ARGV[3] .. name_of(member), 0, ARGV[6] - 1)
    if head ~= '' and owner_of(head) == ARGV[5] then
      heads[#heads + 1] = head
    end
  end
end
return {real, heads}
