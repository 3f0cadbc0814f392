-- Small maps with a bound. Hash "m:<space>": key -> value; ZSET "mx:<space>": key by the moment it ends.

local function map_drop(space, key)
  redis.call('HDEL', P .. ':m:' .. space, key)
  redis.call('ZREM', P .. ':mx:' .. space, key)
end

local function map_put(space, key, value, ttl, bound)
  local ends = P .. ':mx:' .. space
  redis.call('HSET', P .. ':m:' .. space, key, value)
  redis.call('ZADD', ends, text(NOW + ttl), key)
  for _, old in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', text(NOW), 'LIMIT', 0, 20)) do
    map_drop(space, old)
  end
  local over = redis.call('ZCARD', ends) - bound
  if over > 0 then
    for _, old in ipairs(redis.call('ZRANGE', ends, 0, over - 1)) do
      map_drop(space, old)
    end
  end
end

local function map_get(space, key)
  local ends = number(redis.call('ZSCORE', P .. ':mx:' .. space, key))
  if ends <= NOW then
    return {}
  end
  return {redis.call('HGET', P .. ':m:' .. space, key), ends - NOW}
end
