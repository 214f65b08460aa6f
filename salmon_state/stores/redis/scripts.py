"""What Redis does in one step: the scripts.

A script is known to a server by its SHA-1 and sent as a whole only to one that does not know it.
Each touches the keys of one slot, as a cluster asks for. The last ARGV of each is the moment after
which it does nothing, in microseconds by the server's clock.
"""

from __future__ import annotations

import hashlib

__all__ = [
    "DROP",
    "ENTER",
    "EXTEND",
    "FORGET",
    "LEASE_LOST",
    "LOAD",
    "OVERTAKEN",
    "RELEASE",
    "SET",
    "SOME",
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
    """A script in Lua."""

    def __init__(self, text: str) -> None:
        self.text = f"{_IN_TIME}{text}".encode()
        # Redis's name for it, and no protection against anything.
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()


# ---------------------------------------------------------------- writing

WRITE = Script("""
-- KEYS: the leases to be held; the senders' hashes; the sets of what is due; then for each hash
-- that was staged, this and the set of what is due in it.
-- ARGV: how many of the first three; 'check' or 'change'; the time to live of states in
-- milliseconds or ''; the tokens of the leases; for each hash the text of its sender and the number
-- of its set of what is due, 0 without one, or '' for one of states; then for each write the hash,
-- the field or '' for all, what to do and the condition, the time, the value. To do is to (c)heck,
-- (r)emove, (w)rite, (m)erge what was staged, or to write and (k)eep the time to live.
local leases, hashes, dues = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local mode, ttl = ARGV[4], ARGV[5]
local about = 5 + leases
local first = about + 2 * hashes + 1
for i = 1, leases do
  if redis.call('GET', KEYS[i]) ~= ARGV[5 + i] then return -1 end
end
if hashes > 1 then  -- what is none raises before anything is written
  for i = leases + 1, leases + hashes do redis.call('HLEN', KEYS[i]) end
end

local function hash_of(i)
  local number = tonumber(ARGV[i])
  local due = ARGV[about + 2 * number]
  return KEYS[leases + number], due == '', KEYS[leases + hashes + (tonumber(due) or 0)], due
end

local function split(value)
  local at, state = string.match(value, '^(%-?%d+) ([!-~]+)$')
  if not at then at, state = string.match(value, '^(%-) ([!-~]+)$') end
  return at, state
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

for i = first, #ARGV - 1, 5 do
  local key, is_state = hash_of(i)
  local field = ARGV[i + 1]
  local act, condition = string.sub(ARGV[i + 2], 1, 1), string.sub(ARGV[i + 2], 2)
  if act == 'm' then
    local staged = KEYS[leases + hashes + dues + tonumber(field)]
    if redis.call('HLEN', staged) ~= 2 * tonumber(ARGV[i + 4]) then return -3 end
    if condition == '-' then
      local few, many = key, staged
      if redis.call('HLEN', staged) < redis.call('HLEN', key) then few, many = staged, key end
      local names = all_names(few)
      for j = 1, #names, 2000 do
        local ends = math.min(j + 1999, #names)
        local found = redis.call('HMGET', many, unpack(names, j, ends))
        for n = 1, ends - j + 1 do
          if found[n] then return -2 end
        end
      end
    end
  elseif field == '' and is_state then
    local all = redis.call('HGETALL', key)
    for j = 1, #all, 2 do
      if all[j] ~= 'sender' and not split(all[j + 1]) then return {key, all[j]} end
    end
  elseif condition ~= '*' then
    local kind, value, at = string.sub(condition, 1, 1), nil, nil
    if kind == '=' or is_state then
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
    if kind == '-' then
      if value then return -2 end
    else
      local space = string.find(condition, ' ', 1, true)
      local moment = string.sub(condition, 2, space - 1)
      if not value or (moment ~= '*' and moment ~= at) then return -2 end
      if kind == '=' and value ~= string.sub(condition, space + 1) then return -2 end
    end
  end
end
if mode == 'check' then return {} end

local counts, written, emptied = {}, {}, {}
for i = first, #ARGV - 1, 5 do
  local key, is_state, due, number = hash_of(i)
  local sender = ARGV[about + 2 * tonumber(ARGV[i]) - 1]
  local field, act, at, value = ARGV[i + 1], string.sub(ARGV[i + 2], 1, 1), ARGV[i + 3], ARGV[i + 4]
  local digest
  if number == '0' or is_state then due = nil else digest = string.match(key, '{(.-)}') end
  local names, count = {field}, 0
  if act == 'm' then
    local staged = leases + hashes + dues + tonumber(field)
    local from, into = KEYS[staged], key
    if redis.call('HLEN', key) < redis.call('HLEN', from) then from, into = into, from end
    local all = redis.call('HGETALL', from)
    if from == key and ARGV[i + 2] == 'm*' then
      for j = 1, #all, 2 do redis.call('HSETNX', into, all[j], all[j + 1]) end
    else
      for j = 1, #all, 2000 do
        redis.call('HSET', into, unpack(all, j, math.min(j + 1999, #all)))
      end
    end
    if into == key then
      redis.call('DEL', from)
    else
      redis.call('RENAME', into, key)
      redis.call('PERSIST', key)
    end
    redis.call('HSET', key, 'sender', sender)
    if due then
      redis.call('ZADD', due, at, '!' .. KEYS[staged + 1])
      redis.call('PERSIST', KEYS[staged + 1])
    end
  elseif act == 'r' then
    if field == '' and not is_state and redis.call('HLEN', key) > 2001 then
      count, names = (redis.call('HLEN', key) - 1) / 2, {}
      redis.call('UNLINK', key)
    elseif field == '' then
      names = all_names(key, is_state)
    end
    for _, each in ipairs(names) do
      if redis.call('HDEL', key, each) == 1 then
        count = count + 1
        if not is_state then redis.call('HDEL', key, '@' .. each) end
        if due then redis.call('ZREM', due, digest .. each) end
      end
    end
    emptied[key] = true
  elseif act ~= 'c' then
    if field == '' then names = all_names(key, is_state) end
    for _, each in ipairs(names) do
      if is_state then
        redis.call('HSET', key, 'sender', sender, each, value)
      else
        redis.call('HSET', key, 'sender', sender, each, value, '@' .. each, at)
        if due and at ~= '-' then redis.call('ZADD', due, at, digest .. each) end
      end
    end
    count = #names
    if is_state and act == 'w' and count > 0 then written[key] = true end
  end
  counts[#counts + 1] = count
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
for i = 1, leases do redis.call('DEL', KEYS[i]) end
return counts
""")

# The same for one state that is set, or goes, at two thirds of the time.
SET = Script("""
return redis.call('HSET', KEYS[1], 'sender', ARGV[1], ARGV[2], ARGV[3])
""")

FORGET = Script("""
local count = redis.call('HDEL', KEYS[1], ARGV[1])
if count == 1 and redis.call('HLEN', KEYS[1]) == 1
    and redis.call('HEXISTS', KEYS[1], 'sender') == 1 then
  redis.call('DEL', KEYS[1])
end
return count
""")

# KEYS: what is to become a part of a hash, and of what is due in it. ARGV: how long it waits for
# that, in milliseconds; the digest of the sender, or '' if nothing is due; fields, times, values.
STAGE = Script("""
for i = 3, #ARGV - 1, 3 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 2], '@' .. ARGV[i], ARGV[i + 1])
  if ARGV[2] ~= '' then redis.call('ZADD', KEYS[2], ARGV[i + 1], ARGV[2] .. ARGV[i]) end
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[1])
return 0
""")

DROP = Script("""
return redis.call('UNLINK', unpack(KEYS))
""")

# ---------------------------------------------------------------- reading, and leases

_READ = """
local function read(first, from)
  local found = {}
  for i = first, #KEYS do
    local key, field = KEYS[i], ARGV[from + i - first]
    if field == '' then
      found[#found + 1] = redis.call('HGETALL', key)
    else
      local part, value = {}, redis.call('HGET', key, field)
      local at = redis.call('HGET', key, '@' .. field)
      if value then part[1], part[2] = field, value end
      if value and at then part[3], part[4] = '@' .. field, at end
      found[#found + 1] = part
    end
  end
  return found
end
"""

# KEYS: the hashes. ARGV: for each of them a field, or '' for all; the deadline.
LOAD = Script(
    _READ
    + """
return read(1, 1)
"""
)

# KEYS: a hash. ARGV: fields; the deadline. Returns of how many the rest is, and what they hold.
SOME = Script("""
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
""")

# KEYS: the lease; the hashes. ARGV: the token; how long it lasts in milliseconds; the fields; the
# deadline. Whoever asks again with the same token, because the reply was lost, has won already. The
# entries are read first: if they cannot be, no lease is left behind.
ENTER = Script(
    _READ
    + """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return false end
local found = read(2, 3)
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return found
"""
)

EXTEND = Script("""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
""")

RELEASE = Script("""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
""")
