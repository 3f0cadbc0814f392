-- Notes that every replica sees: cooldowns and what policies post.
-- Hash "n": name -> packed {number, ends, origin, kind, value}; ZSET "ns": name by number; ZSET "nx": name by end.
-- A note that was taken down stays for a minute without a value, so that the others learn of it.

local function note_put(name, kind, value, ttl)
  local ends = NOW + ttl
  if kind == 'c' and ttl > 0 then
    local known = redis.call('HGET', P .. ':n', name)
    if known and cmsgpack.unpack(known)[2] >= ends then
      return
    end
  end
  local order = redis.call('INCR', P .. ':no')
  if ttl <= 0 then
    value, ends = '', NOW + 60000
    kind = string.upper(kind)
  end
  redis.call('HSET', P .. ':n', name, cmsgpack.pack({order, ends, ME, kind, value}))
  redis.call('ZADD', P .. ':ns', text(order), name)
  redis.call('ZADD', P .. ':nx', text(ends), name)
end

local function notes_since(seen)
  local news = {}
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', P .. ':ns', '(' .. seen, '+inf', 'LIMIT', 0, 500)) do
    local packed = redis.call('HGET', P .. ':n', name)
    if packed then
      local note = cmsgpack.unpack(packed)
      news[#news + 1] = {note[1], name, note[4], note[5], note[2] - NOW, note[3]}
    end
  end
  return news
end

local function notes_clean()
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', P .. ':nx', '-inf', text(NOW), 'LIMIT', 0, 50)) do
    redis.call('HDEL', P .. ':n', name)
    redis.call('ZREM', P .. ':ns', name)
    redis.call('ZREM', P .. ':nx', name)
  end
end
