-- The environment says what is sent. The result is one line of JSON.
local keys = os.getenv("BENCH_KEYS")
if not keys then
  -- One request, over and over.
  wrk.method = os.getenv("BENCH_METHOD")
  wrk.body = os.getenv("BENCH_BODY")
  wrk.headers["Authorization"] = "Bearer " .. os.getenv("BENCH_KEY")
  if wrk.body then
    wrk.headers["Content-Type"] = "application/json"
  end
else
  -- A request for each of so many lines of the file, from this byte on and round, one after the other; the threads
  -- take turns. All are made before the first is sent, so that the load generator does not spend its time on them.
  local head, tail, turns = os.getenv("BENCH_HEAD"), os.getenv("BENCH_TAIL"), tonumber(os.getenv("BENCH_THREADS"))
  local known = 0
  function setup(thread)
    thread:set("turn", known)
    known = known + 1
  end
  local requests = {}
  function init()
    local file = assert(io.open(keys))
    file:seek("set", tonumber(os.getenv("BENCH_OFFSET")))
    for i = 1, tonumber(os.getenv("BENCH_COUNT")) do
      local key = file:read()
      if not key then
        file:seek("set")
        key = file:read()
      end
      if i % turns == turn then
        requests[#requests + 1] = head .. key .. tail
      end
    end
  end
  local last = 0
  function request()
    last = last % #requests + 1
    return requests[last]
  end
end

-- On average so many milliseconds between an answer and the next request.
local pause = tonumber(os.getenv("BENCH_PAUSE_MS"))
if pause then
  function delay()
    return math.random(0, 2 * pause)
  end
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"requests":%d,"us":%d,"p50_us":%d,"p99_us":%d,"not_2xx":%d,"broken":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
