-- Spent and held units. Hash "c:<name>": u: spent, h:<replica>: held by that replica's calls in flight.
-- A rolling counter keeps what it spent in a window of the same name instead of in u.
-- What a replica holds dies with it: held figures of replicas unseen for DEAD_AFTER do not count.

local function alive(replica)
  return replica == ME or number(redis.call('ZSCORE', P .. ':replicas', replica)) > NOW - DEAD_AFTER
end

-- Spent, held by all, held by others.
local function counter_read(name, span, size)
  local key = P .. ':c:' .. name
  local spent, held, others = 0, 0, 0
  local flat = redis.call('HGETALL', key)
  for i = 1, #flat, 2 do
    local field, value = flat[i], number(flat[i + 1])
    if field == 'u' then
      spent = value
    else
      local replica = string.sub(field, 3)
      if alive(replica) then
        held = held + value
        if replica ~= ME then
          others = others + value
        end
      else
        redis.call('HDEL', key, field)
      end
    end
  end
  if span > 0 then
    local _, total = window_open('c:' .. name, span, size)
    spent = total
  end
  return spent, held, others
end

local function counter_expire(name, ttl)
  local key = P .. ':c:' .. name
  if ttl <= 0 then
    redis.call('EXPIRE', key, 86400)
  elseif redis.call('TTL', key) < 0 then
    redis.call('PEXPIRE', key, text(ttl))
  end
end

local function counter_hold(name, amount, ttl)
  redis.call('HINCRBY', P .. ':c:' .. name, 'h:' .. ME, text(amount))
  counter_expire(name, ttl)
end

local function counter_spend(name, amount, ttl, span, size)
  if span > 0 then
    window_add('c:' .. name, amount, span, size, NOW)
  else
    redis.call('HINCRBY', P .. ':c:' .. name, 'u', text(amount))
    counter_expire(name, ttl)
  end
end
