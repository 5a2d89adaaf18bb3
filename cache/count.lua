-- Counts the replies of one tag that have not expired: those in their grace, and the unread ones.
-- KEYS: grace, then each part of unread
local count = call('ZCOUNT', KEYS[1], '(' .. whole(now), '+inf')
for i = 2, #KEYS do
  count = count + call('ZCOUNT', KEYS[i], '(' .. whole(now_us), '+inf')
end
return {real, count}
