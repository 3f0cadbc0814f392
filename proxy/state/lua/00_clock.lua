-- One call of this script is one batch of one replica: all of it happens, or nothing.
-- KEYS[1]  the name space, "{name}"; every key begins with it, so that all live in one slot of a cluster
-- ARGV[1]  the replica's id         ARGV[2]  number of this batch, 0: not counted
-- ARGV[3]  number of the last note this replica has seen
-- ARGV[4]  the operations, JSON: a list of {code, ...}; see 90_batch.lua
-- Times are the server's, in milliseconds.

local P = KEYS[1]
local ME = ARGV[1]
local DEAD_AFTER = 15000

local clock = redis.call('TIME')
local NOW = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function number(value)
  return tonumber(value or 0) or 0
end

-- Lua writes 14 digits by itself; sums of nano-dollars have more.
local function text(value)
  return string.format('%.0f', value + 0) -- + 0: never "-0", which is no integer to Redis
end

local function in_seconds(milliseconds)
  return math.ceil(math.max(1, milliseconds) / 1000)
end
