"""The scripts about what is due: to claim it, to page through it, to count it.

They find the hashes by the members of the set, in the slot that the set is in.
"""

from __future__ import annotations

from salmon_state.stores.redis.scripts import Script

__all__ = ["CLAIM", "COUNT", "EXPAND", "PAGE"]

# A member that begins with '!' stands for all in another set, from where they are moved here. What
# became of an entry since says its hash: a member without one goes, one with another time moves.
_DUE = """
local due, head, tail = KEYS[1], ARGV[1], ARGV[2]

local function key_of(member) return head .. string.sub(member, 1, 64) .. tail end

local function time_of(member)
  return redis.call('HGET', key_of(member), '@' .. string.sub(member, 65))
end

local function expand(pointer)
  local from = string.sub(pointer, 2)
  local moved = redis.call('ZPOPMIN', from, 1000)
  for i = 1, #moved, 2 do
    local at = time_of(moved[i])
    if at then redis.call('ZADD', due, at, moved[i]) end
  end
  local next = redis.call('ZRANGE', from, 0, 0, 'WITHSCORES')
  if #next == 0 then
    redis.call('ZREM', due, pointer)
  else
    redis.call('ZADD', due, next[2], pointer)
  end
  return #next > 0
end

local function is_there(member, score)
  if string.sub(member, 1, 1) == '!' then
    expand(member)
    return false
  end
  local at = time_of(member)
  if not at then
    redis.call('ZREM', due, member)
  elseif tonumber(at) ~= tonumber(score) then
    redis.call('ZADD', due, at, member)
  else
    return at
  end
end

local function add(found, at, member)
  local both = redis.call('HMGET', key_of(member), 'sender', string.sub(member, 65))
  local value = both[2] or ''
  for _, each in ipairs({member, at, both[1] or '', value}) do found[#found + 1] = each end
  return #value
end
"""

# ARGV: what the key of a hash begins and ends with; the latest time that is due; the time to move
# them to; how many; the deadline. Returns when the next one is due, or '', and what was claimed.
CLAIM = Script(
    _DUE
    + """
local upto, till, limit = ARGV[3], ARGV[4], tonumber(ARGV[5])
local found, taken, bytes = {''}, 0, 0
local looked = redis.call('ZRANGEBYSCORE', due, '-inf', upto, 'WITHSCORES', 'LIMIT', 0, 1000)
for i = 1, #looked, 2 do
  if taken == limit or bytes > 1000000 then break end
  local member = looked[i]
  if is_there(member, looked[i + 1]) then
    redis.call('HSET', key_of(member), '@' .. string.sub(member, 65), till)
    redis.call('ZADD', due, till, member)
    bytes = bytes + add(found, till, member)
    taken = taken + 1
  elseif string.sub(member, 1, 1) == '!' then
    break
  end
end
local next = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')
found[1] = next[2] or ''
return found
"""
)

# ARGV: what the key of a hash begins and ends with; the time and the member that the page before
# ended with, or ''; the time that ends it, exclusive; how many; the deadline. Returns those two,
# '' after the last page, and what was found.
PAGE = Script(
    _DUE
    + """
local before, limit = ARGV[5], tonumber(ARGV[6])
local start = 0
if ARGV[4] ~= '' then
  local probe = ARGV[4] .. '\\n'  -- no other member is between the two
  redis.call('ZADD', due, ARGV[3], probe)
  start = redis.call('ZRANK', due, probe)
  redis.call('ZREM', due, probe)
end
local looked
while true do
  looked = redis.call('ZRANGE', due, start, start + limit - 1, 'WITHSCORES')
  local expanded = false
  for i = 1, #looked, 2 do
    if tonumber(looked[i + 1]) >= tonumber(before) then break end
    if string.sub(looked[i], 1, 1) == '!' then
      expand(looked[i])
      expanded = true
    end
  end
  if not expanded then break end
end
local found, bytes = {'', ''}, 0
for i = 1, #looked, 2 do
  local member, score = looked[i], looked[i + 1]
  if tonumber(score) >= tonumber(before) then return found end
  local at = is_there(member, score)
  if at then bytes = bytes + add(found, at, member) end
  if i + 1 == 2 * limit or bytes > 1000000 then
    found[1], found[2] = score, member
    return found
  end
end
return found
"""
)

# ARGV: as before; then where to begin, how many, the deadline. Returns how many were looked at, how
# many of them are there, and 0 at the end.
COUNT = Script(
    _DUE
    + """
local count = 0
local looked = redis.call('ZRANGE', due, ARGV[3], ARGV[3] + ARGV[4] - 1)
for i, member in ipairs(looked) do
  if string.sub(member, 1, 1) == '!' then
    expand(member)
    return {i - 1, count, 1}
  end
  if time_of(member) then count = count + 1 end
end
return {#looked, count, #looked}
"""
)

# ARGV: as before; the member that stands for a set. Returns whether something is left in it.
EXPAND = Script(
    _DUE
    + """
return expand(ARGV[3]) and 1 or 0
"""
)
