-- Token bucket as one number, "b:<name>": the moment (ms) at which it will be full again. No key: full.

local function bucket_left(name)
  local full_at = number(redis.call('GET', P .. ':b:' .. name))
  -- A moment further ahead than any bucket can be is left over from a clock that was set back.
  if full_at - NOW > 86400000 * 40 then
    return 0
  end
  return math.max(0, full_at - NOW)
end

local function bucket_wait(name, burst, amount, rate)
  if amount > burst then
    return -1, bucket_left(name)
  end
  local left = bucket_left(name)
  local wait = left + (amount - burst) * 1000 / rate
  -- Under a millisecond is rounding: times here are whole milliseconds.
  if wait < 1 then
    return 0, left
  end
  return math.ceil(wait), left
end

local function bucket_add(name, amount, rate)
  local left = math.max(0, bucket_left(name) + amount * 1000 / rate)
  if left > 0 then
    redis.call('SET', P .. ':b:' .. name, string.format('%.3f', NOW + left), 'PX', text(math.ceil(left) + 1000))
  else
    redis.call('DEL', P .. ':b:' .. name)
  end
  return left
end
