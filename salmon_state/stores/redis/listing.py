"""The scripts that go through entries: those of hashes, and what is due.

Those of what is due find the hashes by the members of a set, in the slot that the set is in.
"""

from __future__ import annotations

from salmon_state.stores.redis.scripts import Script

__all__ = ["CLAIM", "COUNT", "LOOK", "PAGE", "PEEK", "SOME"]

# KEYS: hashes. ARGV: a field that they must have, or ''; the state that one must have and the
# latest time, or '' for either; how many bytes of senders to give; the deadline. Returns for the
# first of them what they hold, or nothing where surely none of that matches or is damaged. One
# comes in any case if all the bytes of a page are for it.
LOOK = Script(
    """
local field, wanted, latest, limit = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local found, bytes = {}, 0

local function may_match(value)
  local at, state = string.match(value, '^(%-?%d*) ([%w_]+)$')
  if not at or at == '' or #at > 17 or state == 'START' then return true end
  return (wanted == '' or state == wanted) and (not latest or (tonumber(at) or 0) <= latest)
end

for i, key in ipairs(KEYS) do
  local value = field ~= '' and redis.call('HGET', key, field)
  local all = {}
  if field == '' or (value and may_match(value)) then
    bytes = bytes + redis.call('HSTRLEN', key, 'sender')
    if bytes > limit and (i > 1 or limit < 1000000) then break end
    all = redis.call('HGETALL', key)
    local some = wanted == '' and not latest
    for j = 1, #all, 2 do some = some or (all[j] ~= 'sender' and may_match(all[j + 1])) end
    if not some then all = {} end
  end
  found[i] = all
end
return found
""",
    reads=True,
)

# KEYS: hashes. ARGV: how many fields an entry has; the deadline. Returns how many entries there
# are, or the key of a hash that is damaged.
COUNT = Script(
    """
local count = 0
for _, key in ipairs(KEYS) do
  local fields = redis.call('HLEN', key)
  if fields > 0 and redis.call('HSTRLEN', key, 'sender') == 0 then return key end
  if fields > 0 then count = count + math.floor((fields - 1) / ARGV[1]) end
end
return count
""",
    reads=True,
)

# KEYS: a hash. ARGV: fields; the deadline. Returns of how many the rest is, and what they hold.
SOME = Script(
    """
local found, bytes = {0}, 0
for i = 1, #ARGV - 1 do
  local field, at = ARGV[i], '@' .. ARGV[i]
  local both = redis.call('HMGET', KEYS[1], field, at)
  if both[1] then
    for _, each in ipairs({field, both[1], at, both[2] or ''}) do found[#found + 1] = each end
    bytes = bytes + #both[1]
  end
  found[1] = i
  if bytes > 1000000 then break end
end
return found
""",
    reads=True,
)

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

local function add(found, at, member, value)
  local key, field = key_of(member), string.sub(member, 65)
  value = value and redis.call('HGET', key, field) or ''
  local sender = redis.call('HGET', key, 'sender') or ''
  for _, each in ipairs({member, at, sender, value}) do found[#found + 1] = each end
  return #member + #sender + #value
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
    bytes = bytes + add(found, till, member, true)
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
# ended with, or ''; the time that ends it, exclusive; how many; '' to leave out the values; the
# deadline. Returns whether there may be more, the time and the member to go on with, and what was
# found.
PAGE = Script(
    _DUE
    + """
local score, last, before, limit = ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local start = 0
if last ~= '' then
  local probe = last .. '\\n'  -- no other member is between the two
  redis.call('ZADD', due, score, probe)
  start = redis.call('ZRANK', due, probe)
  redis.call('ZREM', due, probe)
end
local found, bytes = {'', score, last}, 0
local looked = redis.call('ZRANGE', due, start, start + limit - 1, 'WITHSCORES')
for i = 1, #looked, 2 do
  local member = looked[i]
  if tonumber(looked[i + 1]) >= before then return found end
  if string.sub(member, 1, 1) == '!' then  -- what it stands for comes next
    expand(member)
    found[1] = '1'
    return found
  end
  local at = is_there(member, looked[i + 1])
  if at then bytes = bytes + add(found, at, member, ARGV[7] ~= '') end
  found[2], found[3] = looked[i + 1], member
  if bytes > 1000000 then break end
end
if #looked > 0 then found[1] = '1' end
return found
"""
)

# The same while nobody writes, in the order of the set and without putting anything in order. KEYS:
# the set or a part that it points to, and the set. ARGV: what the key of a hash begins and ends
# with; how many to leave out and to look at; the deadline. Returns how many were looked at, the
# part that the last of them points to or '', and what was found: of a part what the set has not.
PEEK = Script(
    _DUE
    + """
local start, limit = tonumber(ARGV[3]), tonumber(ARGV[4])
local found, bytes = {0, ''}, 0
for i, member in ipairs(redis.call('ZRANGE', due, start, start + limit - 1)) do
  found[1] = i
  if string.sub(member, 1, 1) == '!' then
    found[2] = string.sub(member, 2)
    break
  end
  local at = time_of(member)
  if at and not (due ~= KEYS[2] and redis.call('ZSCORE', KEYS[2], member)) then
    bytes = bytes + add(found, at, member, true)
  end
  if bytes > 1000000 then break end
end
return found
""",
    reads=True,
)
