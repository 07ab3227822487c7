-- Environment variables configure the requests. The result is one line of JSON.
local keys = os.getenv("BENCH_KEYS")
if not keys then
  -- Sends the same request repeatedly.
  wrk.method = os.getenv("BENCH_METHOD")
  wrk.body = os.getenv("BENCH_BODY")
  wrk.headers["Authorization"] = "Bearer " .. os.getenv("BENCH_KEY")
  if wrk.body then
    wrk.headers["Content-Type"] = "application/json"
  end
else
  -- Sends one request for each of BENCH_COUNT lines of the file, from BENCH_OFFSET on, starting over at the end of the
  -- file. The threads divide the lines between them. All requests are built before the first is sent, so that the load
  -- generator does not spend time on it during the measurement.
  local head = os.getenv("BENCH_HEAD")
  local tail = os.getenv("BENCH_TAIL")
  local thread_count = tonumber(os.getenv("BENCH_THREADS"))
  local next_index = 0
  function setup(thread)
    thread:set("thread_index", next_index)
    next_index = next_index + 1
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
      if i % thread_count == thread_index then
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

-- Waits this number of milliseconds on average between a response and the next request.
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
