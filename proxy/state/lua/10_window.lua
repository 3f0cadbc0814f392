-- Sliding window. Hash "w:<name>": cell number -> amount, t: sum of the cells, o: oldest cell, l: last time seen.
-- A cell counts until it is wholly past: cell c covers [c, c + 1) * size and goes at (c + 1) * size + span.

local function window_key(name)
  return P .. ':w:' .. name
end

local function window_open(name, span, size)
  local key = window_key(name)
  local head = redis.call('HMGET', key, 't', 'o', 'l')
  local total, oldest, last = number(head[1]), number(head[2]), number(head[3])
  if not head[2] then
    return key, 0, nil
  end
  if NOW < last - 2000 then
    -- The server's clock was set back: what was booked in its old future counts from now on, so that it ends.
    redis.call('DEL', key)
    local cell = math.floor(NOW / size)
    if total > 0 then
      redis.call('HSET', key, text(cell), text(total), 't', text(total), 'o', text(cell), 'l', text(NOW))
    end
    return key, total, cell
  end
  local gone = math.floor((NOW - span) / size) - 1 -- the newest cell that is wholly past
  if oldest <= gone then
    if gone - oldest > 2 * span / size or total <= 0 then
      redis.call('DEL', key)
      return key, 0, nil
    end
    for cell = oldest, gone do
      local amount = redis.call('HGET', key, text(cell))
      if amount then
        total = total - number(amount)
        redis.call('HDEL', key, text(cell))
      end
    end
    oldest = gone + 1
    redis.call('HSET', key, 't', text(total), 'o', text(oldest))
  end
  return key, total, oldest
end

local function window_add(name, amount, span, size, at)
  local key, total, oldest = window_open(name, span, size)
  local cell = math.floor(at / size)
  if cell <= math.floor((NOW - span) / size) - 1 then
    return total
  end
  if not oldest or cell < oldest then
    redis.call('HSET', key, 'o', text(cell))
  end
  redis.call('HINCRBY', key, text(cell), text(amount))
  redis.call('HSET', key, 't', text(total + amount), 'l', text(NOW))
  redis.call('PEXPIRE', key, text(span + 2 * size + 5000))
  return total + amount
end

-- Takes back at most what the cell still holds: after a rebase or a restart it may hold less.
local function window_change(name, amount, span, size, at)
  if amount > 0 then
    return window_add(name, amount, span, size, at)
  end
  local key, total, oldest = window_open(name, span, size)
  local cell = text(math.floor(at / size))
  local held = number(redis.call('HGET', key, cell))
  local change = math.max(amount, -held)
  if oldest and change < 0 then
    redis.call('HINCRBY', key, cell, text(change))
    redis.call('HSET', key, 't', text(total + change))
  end
  return total + change
end

-- Milliseconds until `amount` fits, 0 now, -1 never; and the sum now.
local function window_wait(name, limit, amount, span, size)
  local key, total, oldest = window_open(name, span, size)
  local missing = total + amount - limit
  if missing <= 0 then
    return 0, total
  end
  if amount > limit or not oldest then
    return -1, total
  end
  for cell = oldest, math.floor(NOW / size) + 1 do
    missing = missing - number(redis.call('HGET', key, text(cell)))
    if missing <= 0 then
      return (cell + 1) * size + span - NOW, total
    end
  end
  return span, total
end
