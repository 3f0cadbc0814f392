-- The operations, and their answers in the same order.
-- A claim is {kind, name, limit, amount, ...}: w span size grace | b rate | c ttl span size | s

local function claim_wait(claim)
  local kind, name, limit, amount = claim[1], claim[2], claim[3], claim[4]
  if kind == 'w' then
    return window_wait(name, limit, amount, claim[5], claim[6])
  elseif kind == 'b' then
    return bucket_wait(name, limit, amount, claim[5])
  end
  local span, size = claim[6] or 0, claim[7] or 0
  local spent, held, others = counter_read(name, span, size)
  if spent + held + amount <= limit then
    return 0, spent, others
  elseif amount > limit then
    return -1, spent, others
  elseif held > 0 or kind == 's' then
    return 1000, spent, others
  elseif span > 0 then
    return window_wait('c:' .. name, limit, amount, span, size), spent, others
  end
  return math.max(1, redis.call('PTTL', P .. ':c:' .. name)), spent, others
end

local function claim_take(claim)
  local kind, name, amount = claim[1], claim[2], claim[4]
  if kind == 'w' then
    return window_add(name, amount, claim[5], claim[6], NOW + claim[7]), 0
  elseif kind == 'b' then
    return math.ceil(bucket_add(name, amount, claim[5])), 0
  end
  counter_hold(name, amount, claim[5] or 0)
  local spent, _, others = counter_read(name, claim[6] or 0, claim[7] or 0)
  return spent, others
end

local act = {}

-- {"reserve", {alternative, ...}} -> {index of the one taken or -1, wait ms or -1, alternative and claim that refused,
-- then two figures for each claim looked at}
act.reserve = function(op)
  local figures = {}
  local best, best_alternative, best_claim
  for index, claims in ipairs(op[2]) do
    local longest, which = 0, 0
    local seen = #figures
    for number_of, claim in ipairs(claims) do
      local wait, a, b = claim_wait(claim)
      figures[#figures + 1] = math.ceil(a)
      figures[#figures + 1] = b or 0
      if wait < 0 then
        wait = math.huge
      end
      if wait > longest then
        longest, which = wait, number_of
      end
    end
    if which == 0 then
      for number_of, claim in ipairs(claims) do
        local a, b = claim_take(claim)
        figures[seen + 2 * number_of - 1], figures[seen + 2 * number_of] = a, b
      end
      return {index - 1, 0, 0, 0, figures}
    end
    if not best or longest < best then
      best, best_alternative, best_claim = longest, index - 1, which - 1
    end
  end
  if best == math.huge then
    best = -1
  end
  return {-1, best, best_alternative, best_claim, figures}
end

-- {"settle", {{claim, actual, booked at, counts from}, ...}}; the claim's amount is what was reserved
act.settle = function(op)
  for _, part in ipairs(op[2]) do
    local claim, actual, at, from = part[1], part[2], part[3], part[4]
    local kind, name, reserved = claim[1], claim[2], claim[4]
    if kind == 'w' then
      if from > at then
        window_change(name, -reserved, claim[5], claim[6], at + claim[7])
        window_add(name, actual, claim[5], claim[6], from)
      elseif actual ~= reserved then
        window_change(name, actual - reserved, claim[5], claim[6], at + claim[7])
      end
    elseif kind == 'b' then
      bucket_add(name, actual - reserved, claim[5])
    else
      counter_hold(name, -reserved, claim[5] or 0)
      if kind == 'c' and actual ~= 0 then
        counter_spend(name, actual, claim[5], claim[6], claim[7])
      end
    end
  end
  return 1
end

-- {"book", claim, age ms}: what happened without asking
act.book = function(op)
  local claim = op[2]
  local kind, name, amount = claim[1], claim[2], claim[4]
  if kind == 'w' then
    window_change(name, amount, claim[5], claim[6], NOW - op[3] + claim[7])
  elseif kind == 'b' then
    bucket_add(name, amount, claim[5])
  elseif kind == 'c' then
    counter_spend(name, amount, claim[5], claim[6], claim[7])
  end
  return 1
end

-- {"seed", claim}: spent (counter) or missing (bucket) at least this much
act.seed = function(op)
  local claim = op[2]
  local kind, name, least = claim[1], claim[2], claim[4]
  if kind == 'b' then
    local more = least - bucket_left(name) * claim[5] / 1000
    if more > 0 then
      bucket_add(name, more, claim[5])
    end
  else
    local more = least - counter_read(name, claim[6], claim[7])
    if more > 0 then
      counter_spend(name, more, claim[5], claim[6], claim[7])
    end
  end
  return 1
end

-- {"held", claim}: what this replica holds now
act.held = function(op)
  local claim = op[2]
  redis.call('HSET', P .. ':c:' .. claim[2], 'h:' .. ME, text(claim[4]))
  counter_expire(claim[2], claim[5] or 0)
  return 1
end

-- {"look", {claim, ...}} -> two figures a claim
act.look = function(op)
  local figures = {}
  for _, claim in ipairs(op[2]) do
    local _, a, b = claim_wait(claim)
    figures[#figures + 1] = math.ceil(a)
    figures[#figures + 1] = b or 0
  end
  return figures
end

act.note = function(op)
  note_put(op[2], op[3], op[4], op[5])
  return 1
end

act.put = function(op)
  map_put(op[2], op[3], op[4], op[5], op[6])
  return 1
end

act.get = function(op)
  return map_get(op[2], op[3])
end

act.drop = function(op)
  map_drop(op[2], op[3])
  return 1
end

act.lease = function(op)
  return redis.call('SET', P .. ':l:' .. op[2], ME, 'NX', 'PX', op[3]) and 1 or 0
end

act.release = function(op)
  if redis.call('GET', P .. ':l:' .. op[2]) == ME then
    redis.call('DEL', P .. ':l:' .. op[2])
  end
  return 1
end

-- {"hello", fence} -> {birth mark of this data, last batch of this replica, live replicas, this one's place among them}
-- After a break the fence holds off what the replica has given up on and may still be on its way to us.
act.hello = function(op)
  notes_clean()
  redis.call('ZADD', P .. ':replicas', text(NOW), ME)
  redis.call('ZREMRANGEBYSCORE', P .. ':replicas', '-inf', text(NOW - DEAD_AFTER))
  redis.call('SET', P .. ':born', text(NOW) .. ':' .. ME, 'NX')
  if op[2] > 0 then
    redis.call('SET', P .. ':f:' .. ME, text(op[2]), 'PX', 3600000)
  end
  local members = redis.call('ZRANGE', P .. ':replicas', 0, -1)
  table.sort(members)
  local place = 0
  for index, member in ipairs(members) do
    if member == ME then
      place = index - 1
    end
  end
  return {redis.call('GET', P .. ':born'), number(redis.call('GET', P .. ':q:' .. ME)), #members, place}
end

-- {"bye"}: this replica leaves for good
act.bye = function()
  redis.call('ZREM', P .. ':replicas', ME)
  redis.call('DEL', P .. ':q:' .. ME, P .. ':f:' .. ME)
  return 1
end

local batch = number(ARGV[2])
if batch > 0 then
  local done = redis.call('MGET', P .. ':q:' .. ME, P .. ':f:' .. ME)
  if batch <= math.max(number(done[1]), number(done[2])) then
    return redis.error_reply('STALE this batch was done or given up')
  end
  redis.call('SET', P .. ':q:' .. ME, text(batch), 'PX', 3600000)
end
local answers = {}
for index, op in ipairs(cjson.decode(ARGV[4])) do
  answers[index] = act[op[1]](op)
end
return {NOW, answers, notes_since(ARGV[3]), redis.call('ZCARD', P .. ':replicas')}
