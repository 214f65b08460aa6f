"""What Redis does in one step: the scripts.

A script is known to a server by its SHA-1 and sent as a whole only to one that does not know it.
Each touches the keys of one slot, as a cluster asks for. The last ARGV of each is the moment after
which it does nothing, in microseconds by the server's clock.
"""

from __future__ import annotations

import hashlib

__all__ = [
    "DROP",
    "FORGET",
    "INDEX",
    "LEASE_LOST",
    "OVERTAKEN",
    "SET",
    "STAGE",
    "STAGED_LOST",
    "WRITE",
    "Script",
]

LEASE_LOST, OVERTAKEN, STAGED_LOST = -1, -2, -3

_IN_TIME = """
local now = redis.call('TIME')
if now[1] * 1000000 + now[2] > tonumber(ARGV[#ARGV]) then
  return redis.error_reply('LATE it arrived when it had been given up: nothing was changed')
end
"""


class Script:
    """A script in Lua.

    Args:
        text: Its text, behind what looks at the deadline.
        reads: Whether it only reads, and may run while others are kept from writing.
    """

    def __init__(self, text: str, *, reads: bool = False) -> None:
        self.reads = reads
        self.text = f"{_IN_TIME}{text}".encode()
        # Redis's name for it, and no protection against anything.
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()


# ---------------------------------------------------------------- writing

# Whoever writes states keeps the index of them where there is one, whether he knew of it or not.
INDEX = """
local function is_there(index)
  return redis.call('TYPE', index).ok == 'zset'
end

local function split(value)
  local at, state = string.match(value, '^(%-?%d*) ([!-~]+)$')
  if at ~= '' then return at, state end
end

local function members(key, field, value)
  local at, state = split(value)
  if not at then return end
  if string.sub(at, 1, 1) ~= '-' then at = string.rep('0', 19 - #at) .. at end
  local digest = string.sub(key, -65, -2)  -- a pattern takes longer than all the rest
  local whose = ' ' .. field .. ' ' .. digest
  return state .. ' ' .. field .. ' ' .. at .. ' ' .. digest, ' ' .. at .. whose, ' ' .. whose
end

local function drop(index, key, field, value)
  local by_state, by_time, by_module = members(key, field, value)
  if by_state then redis.call('ZREM', index, by_state, by_time, by_module) end
end

-- Whoever may write states and not the index hears so before anything has changed.
local function set(index, key, sender, field, value)
  local old, old_state, old_time = index and redis.call('HGET', key, field)
  if index and old ~= value then
    local by_state, by_time, by_module = members(key, field, value)
    if old then old_state, old_time = members(key, field, old) end
    if old_time == by_time then old_time = old_state end
    if old_state then  -- what finds it by its module is there, and stays
      redis.call('ZADD', index, 0, by_state, 0, by_time)
    else
      redis.call('ZADD', index, 0, by_state, 0, by_time, 0, by_module)
    end
  end
  redis.call('HSET', key, 'sender', sender, field, value)
  if old_state then redis.call('ZREM', index, old_state, old_time) end
end
"""

WRITE = Script(
    INDEX
    + """
-- KEYS: the index, or none; the leases to be held; then the hash of each group of writes.
-- ARGV: 'check' or 'change'; the time to live of states in milliseconds or ''; how many leases, and
-- their tokens; then for each group the text of its sender, where its entries are due ('' if they
-- are not, 'state' if they are states), how many writes, and for each of these the field or '' for
-- all, what to do and the condition, the time, the value. To do is to (c)heck, (r)emove, (w)rite,
-- to write and (k)eep the time to live, or to (m)erge what was staged under the name in the place
-- of the field: the first time, how many.
local ttl, leases = ARGV[2], tonumber(ARGV[3])
local indexes = string.sub(KEYS[1], -7) == '}:index' and 1 or 0
for i = 1, leases do
  if redis.call('GET', KEYS[indexes + i]) ~= ARGV[3 + i] then return -1 end
end
local groups, start = {}, 4 + leases
for i = indexes + leases + 1, #KEYS do
  local due, ends = ARGV[start + 1], start + 2 + 4 * ARGV[start + 2]
  groups[#groups + 1] = {KEYS[i], ARGV[start], due, start + 3, ends}
  start = ends + 1
  if #KEYS > indexes + leases + 1 or #due > 5 then  -- what is none raises before any write
    redis.call('HLEN', KEYS[i])
    if #due > 5 then redis.call('ZCARD', due) end
  end
end

local function all_names(key, is_state)
  local names = {}
  for _, field in ipairs(redis.call('HKEYS', key)) do
    if field ~= 'sender' and (is_state or string.sub(field, 1, 1) ~= '@') then
      names[#names + 1] = field
    end
  end
  return names
end

local function check_staged(key, staged, condition, count)
  if redis.call('HLEN', staged) ~= 2 * count then return -3 end
  if condition == '*' then return end
  local few, many = key, staged
  if redis.call('HLEN', staged) < redis.call('HLEN', key) then few, many = staged, key end
  local names = all_names(few)
  for i = 1, #names, 2000 do
    local found = redis.call('HMGET', many, unpack(names, i, math.min(i + 1999, #names)))
    for _, each in ipairs(found) do
      if each then return -2 end
    end
  end
end

local function check_all(key)
  local all = redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    if all[i] ~= 'sender' and not split(all[i + 1]) then return {key, all[i]} end
  end
end

local function check(key, is_state, field, condition)
  local how, value, at = string.sub(condition, 1, 1), nil, nil
  if how == '=' or is_state then
    value = redis.call('HGET', key, field)
  else  -- 20 MB that nobody asks for stay where they are
    value = redis.call('HEXISTS', key, field) == 1
  end
  if value and is_state then
    at, value = split(value)
    if not at then return {key, field} end
  elseif value then
    at = redis.call('HGET', key, '@' .. field)
    if not at then return {key, '@' .. field} end
  end
  if how == '-' then return value and -2 or nil end
  local space = string.find(condition, ' ', 1, true)
  local moment = string.sub(condition, 2, space - 1)
  if not value or (moment ~= '*' and moment ~= at) then return -2 end
  if how == '=' and value ~= string.sub(condition, space + 1) then return -2 end
end

for _, group in ipairs(groups) do
  local key, _, due, first, last = unpack(group)
  for i = first, last, 4 do
    local field, condition, wrong = ARGV[i], string.sub(ARGV[i + 1], 2), nil
    if string.sub(ARGV[i + 1], 1, 1) == 'm' then
      wrong = check_staged(key, key .. ':' .. field, condition, tonumber(ARGV[i + 3]))
    elseif condition ~= '*' then
      wrong = check(key, due == 'state', field, condition)
    elseif field == '' and due == 'state' then
      wrong = check_all(key)
    end
    if wrong then return wrong end
  end
end
if ARGV[1] == 'check' then return {} end
local index = indexes == 1 and is_there(KEYS[1]) and KEYS[1]

local function merge(key, staged, anyhow)
  local from, into = staged, key
  if redis.call('HLEN', key) < redis.call('HLEN', staged) then from, into = key, staged end
  local all = redis.call('HGETALL', from)
  if from == key and anyhow then
    for i = 1, #all, 2 do redis.call('HSETNX', into, all[i], all[i + 1]) end
  else
    for i = 1, #all, 2000 do
      redis.call('HSET', into, unpack(all, i, math.min(i + 1999, #all)))
    end
  end
  if into == key then
    redis.call('DEL', from)
  else
    redis.call('RENAME', into, key)
    redis.call('PERSIST', key)
  end
end

local function remove(key, due, digest, field)
  local names, count = {field}, 0
  if field == '' then
    if due ~= 'state' and redis.call('HLEN', key) > 2001 then
      count = (redis.call('HLEN', key) - 1) / 2
      redis.call('UNLINK', key)
      return count
    end
    names = all_names(key, due == 'state')
  end
  for _, each in ipairs(names) do
    local old = index and due == 'state' and redis.call('HGET', key, each)
    if redis.call('HDEL', key, each) == 1 then
      count = count + 1
      if old then drop(index, key, each, old) end
      if due ~= 'state' then redis.call('HDEL', key, '@' .. each) end
      if digest then redis.call('ZREM', due, digest .. each) end
    end
  end
  return count
end

local counts, written, emptied = {}, {}, {}
for _, group in ipairs(groups) do
  local key, sender, due, first, last = unpack(group)
  local digest = #due > 5 and string.match(key, '{(.-)}')
  for i = first, last, 4 do
    local field, act, at, value = ARGV[i], string.sub(ARGV[i + 1], 1, 1), ARGV[i + 2], ARGV[i + 3]
    local count = 0
    if act == 'm' then
      local staged = key .. ':' .. field
      merge(key, staged, ARGV[i + 1] == 'm*')
      redis.call('HSET', key, 'sender', sender)
      if digest then
        redis.call('ZADD', due, at, '!' .. staged .. ':due')
        redis.call('PERSIST', staged .. ':due')
      end
    elseif act == 'r' then
      count = remove(key, due, digest, field)
      emptied[key] = true
    elseif act ~= 'c' then
      local names = field == '' and all_names(key, due == 'state') or {field}
      for _, each in ipairs(names) do
        if due == 'state' then
          set(index, key, sender, each, value)
        else
          redis.call('HSET', key, 'sender', sender, each, value, '@' .. each, at)
          if digest and at ~= '-' then redis.call('ZADD', due, at, digest .. each) end
        end
      end
      count = #names
      if due == 'state' and act == 'w' and count > 0 then written[key] = true end
    end
    counts[#counts + 1] = count
  end
end

for key in pairs(emptied) do
  if redis.call('HLEN', key) == 1 and redis.call('HEXISTS', key, 'sender') == 1 then
    redis.call('DEL', key)
    written[key] = nil
  end
end
if ttl ~= '' then
  for key in pairs(written) do redis.call('PEXPIRE', key, ttl) end
end
for i = indexes + 1, indexes + leases do redis.call('DEL', KEYS[i]) end
return counts
"""
)

# The same for one state that is set, or goes, at two thirds of the time. KEYS: the index, or none;
# the hash.
SET = Script(
    """
local key, index = KEYS[#KEYS], KEYS[1]
if #KEYS == 1 or redis.call('TYPE', index).ok ~= 'zset' then  -- what comes next takes time
  return redis.call('HSET', key, 'sender', ARGV[1], ARGV[2], ARGV[3])
end
"""
    + INDEX
    + """
set(index, key, ARGV[1], ARGV[2], ARGV[3])
return 1
"""
)

FORGET = Script(
    INDEX
    + """
local key, index = KEYS[#KEYS], KEYS[1]
local old = #KEYS == 2 and is_there(index) and redis.call('HGET', key, ARGV[1])
local count = redis.call('HDEL', key, ARGV[1])
if old then drop(index, key, ARGV[1], old) end
if count == 1 and redis.call('HLEN', key) == 1 and redis.call('HEXISTS', key, 'sender') == 1 then
  redis.call('DEL', key)
end
return count
"""
)

# KEYS: what is to become a part of a hash, and of what is due in it. ARGV: how long it waits for
# that, in milliseconds; '' if nothing is due; fields, times, values; the deadline.
STAGE = Script("""
local digest = string.match(KEYS[1], '{(.-)}')
for i = 3, #ARGV - 1, 3 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 2], '@' .. ARGV[i], ARGV[i + 1])
  if ARGV[2] ~= '' then redis.call('ZADD', KEYS[2], ARGV[i + 1], digest .. ARGV[i]) end
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[1])
return 0
""")

DROP = Script("""
return redis.call('UNLINK', unpack(KEYS))
""")
